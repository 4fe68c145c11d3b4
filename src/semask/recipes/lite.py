"""Small models on EfficientNet-Lite0, for real photographs and modest machines."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.mask_classification import SMALL_MASK2FORMER
from semask.recipes.recipe import DecoderRecipe, EncoderRecipe, ModelRecipe

HALF = (0.5, 0.5, 0.5)


def lite0_fpn(num_classes: int, *, semantic: bool, channels: int) -> ModelRecipe:
    """Return EfficientNet-Lite0 with Semantic FPN of `channels` channels."""
    return _lite0(DecoderRecipe(channels=channels), num_classes, semantic=semantic)


def lite0_mask2former(num_classes: int, *, semantic: bool, layers: int = 6) -> ModelRecipe:
    """Return EfficientNet-Lite0 with a small Mask2Former whose transformer decoder has so many layers."""
    return _lite0(replace(SMALL_MASK2FORMER, layers=layers), num_classes, semantic=semantic)


def _lite0(decoder: DecoderRecipe, num_classes: int, *, semantic: bool) -> ModelRecipe:
    encoder = EncoderRecipe(
        name="tf_efficientnet_lite0.in1k",
        semantic_layers=semantic,
        semantic_windows=(8, 8, None, None),
    )
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes, mean=HALF, std=HALF)
