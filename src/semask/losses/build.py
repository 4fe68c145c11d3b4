"""From a recipe to its loss."""

from __future__ import annotations

import math

from semask.losses.masks import MaskClassificationLoss
from semask.losses.pixel import SegmentationLoss
from semask.recipes import Recipe
from semask.recipes.decoders import MASK_CLASSIFIERS


def build_loss(recipe: Recipe) -> SegmentationLoss | MaskClassificationLoss:
    """The loss of a recipe, for the predictions of its decoder.

    Raises:
        ValueError: A weight is out of range, or an option is for the other kind of decoder.
    """
    spec, kind = recipe.loss, recipe.model.decoder.kind
    for name in ("prior_weight", "auxiliary_weight"):
        if not 0 <= getattr(spec, name) < math.inf:
            raise ValueError(f"loss.{name} must be a number from 0 on, got {getattr(spec, name):g}; 0 leaves it out")
    if kind in MASK_CLASSIFIERS:
        for name in ("ohem_pixels", "class_weights"):
            if getattr(spec, name) is not None:
                raise ValueError(
                    f"loss.{name} is for losses of pixels, and {kind} has a loss of masks; use "
                    f"--loss.{name.replace('_', '-')} None"
                )
        return MaskClassificationLoss(spec.masks, spec.prior_weight, spec.normalize_by)
    if spec.class_weights is not None:
        _check_class_weights(spec.class_weights, recipe.model.num_classes)
    return SegmentationLoss(
        spec.prior_weight, spec.normalize_by, spec.ohem_pixels, spec.auxiliary_weight, spec.class_weights
    )


def _check_class_weights(weights: tuple[float, ...], num_classes: int) -> None:
    if len(weights) != num_classes:
        raise ValueError(
            f"loss.class_weights has {len(weights)} weights for {num_classes} classes; give one per class, "
            "in the class table's order"
        )
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"loss.class_weights are numbers from 0 on, at least one above 0, got {weights}")
