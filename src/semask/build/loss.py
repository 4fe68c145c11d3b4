"""From a recipe to its loss."""

from __future__ import annotations

import math

from semask.build.decoder import MASK_CLASSIFIERS
from semask.losses.masks import MaskClassificationLoss
from semask.losses.pixel import SegmentationLoss
from semask.recipes import Recipe


def build_loss(recipe: Recipe) -> SegmentationLoss | MaskClassificationLoss:
    """Return the loss of a recipe, which depends on what its decoder gives."""
    spec = recipe.loss
    for name in ("prior_weight", "auxiliary_weight"):
        if not 0 <= getattr(spec, name) < math.inf:
            raise ValueError(f"loss.{name} is a number from 0 on, got {getattr(spec, name):g}; 0 leaves that loss out")
    if recipe.model.decoder.name in MASK_CLASSIFIERS:
        if spec.ohem_pixels is not None:
            raise ValueError(
                f"{recipe.model.decoder.name} compares masks and keeps no hardest pixels; say --loss.ohem-pixels None"
            )
        if spec.class_weights is not None:
            raise ValueError(
                f"{recipe.model.decoder.name} classifies masks, and class_weights are for pixels; "
                "say --loss.class-weights None"
            )
        return MaskClassificationLoss(spec.masks, spec.prior_weight, spec.denominator)
    _check_class_weights(spec.class_weights, recipe.model.num_classes)
    return SegmentationLoss(
        spec.prior_weight, spec.denominator, spec.ohem_pixels, spec.auxiliary_weight, spec.class_weights
    )


def _check_class_weights(weights: tuple[float, ...] | None, num_classes: int) -> None:
    if weights is None:
        return
    if len(weights) != num_classes:
        raise ValueError(
            f"loss.class_weights has {len(weights)} weights for {num_classes} classes; give one per class, "
            "in the class table's order"
        )
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"loss.class_weights are numbers from 0 on, at least one above 0, got {weights}")
