"""Small models on EfficientNet-Lite0, for real photographs and modest machines."""

from __future__ import annotations

from semask.recipes.recipe import DecoderRecipe, EncoderRecipe, ModelRecipe

HALF = (0.5, 0.5, 0.5)


def lite0_fpn(num_classes: int, *, semantic: bool, channels: int) -> ModelRecipe:
    """Return EfficientNet-Lite0 with Semantic FPN of `channels` channels."""
    encoder = EncoderRecipe(
        name="tf_efficientnet_lite0.in1k",
        semantic_layers=semantic,
        semantic_windows=(8, 8, None, None),
    )
    return ModelRecipe(
        encoder=encoder, decoder=DecoderRecipe(channels=channels), num_classes=num_classes, mean=HALF, std=HALF
    )
