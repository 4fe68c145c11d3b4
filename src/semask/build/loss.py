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
        return MaskClassificationLoss(spec.masks, spec.prior_weight, spec.denominator)
    return SegmentationLoss(spec.prior_weight, spec.denominator, spec.ohem_pixels, spec.auxiliary_weight)
