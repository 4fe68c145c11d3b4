"""From a recipe to its loss."""

from __future__ import annotations

from functools import partial

from semask.losses.masks import MaskClassificationLoss
from semask.losses.pixel import SegmentationLoss
from semask.losses.regions import RegionTerm, focal, lovasz_softmax, tversky
from semask.recipes import LossRecipe, Recipe
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
        for name in ("ohem_pixels", "class_weights", "cross_entropy", "dice", "tversky", "lovasz", "focal"):
            if getattr(spec, name) != (idle := getattr(LossRecipe(), name)):
                raise ValueError(
                    f"loss.{name} is for losses of pixels, and {kind} has a loss of masks; use "
                    f"--loss.{name.replace('_', '-')} {idle}"
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
    terms: dict[str, RegionTerm] = {
        "dice": (spec.dice, partial(tversky, alpha=0.5, beta=0.5)),
        "tversky": (spec.tversky, partial(tversky, alpha=spec.tversky_alpha, beta=1 - spec.tversky_alpha)),
        "lovasz": (spec.lovasz, lovasz_softmax),
        "focal": (spec.focal, partial(focal, gamma=spec.focal_gamma)),
    }
    regions = {name: term for name, term in terms.items() if term[0]}
    if not regions and not spec.cross_entropy:
        raise ValueError(
            f"the main loss has no term; give --loss.cross-entropy or --loss.{min(terms)} a weight above 0"
        )
    return SegmentationLoss(
        spec.prior_weight,
        spec.normalize_by,
        spec.ohem_pixels,
        spec.auxiliary_weight,
        spec.class_weights,
        spec.cross_entropy,
        regions,
    )
