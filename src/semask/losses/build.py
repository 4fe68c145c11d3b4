"""From a recipe to its loss."""

from __future__ import annotations

from semask.losses.masks import MaskClassificationLoss
from semask.losses.pixel import SegmentationLoss
from semask.recipes import Recipe
from semask.recipes.bounds import check_numbers
from semask.recipes.decoders import MASK_CLASSIFIERS


def build_loss(recipe: Recipe) -> SegmentationLoss | MaskClassificationLoss:
    """The loss of a recipe, for the predictions of its decoder.

    Raises:
        ValueError: A weight is out of range, or an option is for the other kind of decoder.
    """
    spec, kind = recipe.loss, recipe.model.decoder.kind
    check_numbers(spec, "loss")
    if kind in MASK_CLASSIFIERS:
        for name in ("ohem_pixels", "class_weights"):
            if getattr(spec, name) is not None:
                raise ValueError(
                    f"loss.{name} is for losses of pixels, and {kind} has a loss of masks; use "
                    f"--loss.{name.replace('_', '-')} None"
                )
        return MaskClassificationLoss(spec.masks, spec.prior_weight, spec.normalize_by)
    if (weights := spec.class_weights) is not None:
        if len(weights) != recipe.model.num_classes:
            raise ValueError(
                f"loss.class_weights has {len(weights)} weights for {recipe.model.num_classes} classes; give one per "
                "class, in the class table's order"
            )
        if not any(weights):
            raise ValueError(f"loss.class_weights must hold at least one number above 0, got {weights}")
    return SegmentationLoss(
        spec.prior_weight, spec.normalize_by, spec.ohem_pixels, spec.auxiliary_weight, spec.class_weights
    )
