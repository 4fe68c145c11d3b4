"""Models for real photographs and modest machines: on EfficientNet-Lite0, and on DINOv2 ViT-S/14 (arXiv:2304.07193)."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.decoders import (
    DecoderOptions,
    Mask2FormerOptions,
    MSDeformOptions,
    SegmenterLinearOptions,
    SegmenterMaskOptions,
    SemanticFPNOptions,
)
from semask.recipes.encoders import SemanticLayers, StagesOptions, ViTOptions
from semask.recipes.recipe import ModelRecipe

HALF = (0.5, 0.5, 0.5)
LINEAR = SegmenterLinearOptions()
MASK = SegmenterMaskOptions()
SMALL_MASK2FORMER = Mask2FormerOptions(
    pixel_decoder=MSDeformOptions(layers=3, feedforward=256), channels=128, layers=6, queries=50, feedforward=512
)


def lite0_fpn(num_classes: int, *, semantic: bool, channels: int) -> ModelRecipe:
    """EfficientNet-Lite0 with Semantic FPN of `channels` channels."""
    return _lite0(SemanticFPNOptions(channels=channels), num_classes, semantic=semantic)


def lite0_mask2former(num_classes: int, *, semantic: bool, layers: int = 6) -> ModelRecipe:
    """EfficientNet-Lite0 with a small Mask2Former whose transformer decoder has `layers` layers."""
    return _lite0(replace(SMALL_MASK2FORMER, layers=layers), num_classes, semantic=semantic)


def _lite0(decoder: DecoderOptions, num_classes: int, *, semantic: bool) -> ModelRecipe:
    layers = SemanticLayers(windows=(8, 8, None, None)) if semantic else None
    encoder = StagesOptions(name="tf_efficientnet_lite0.in1k", semantic=layers)
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes, mean=HALF, std=HALF)


def dinov2(num_classes: int, decoder: DecoderOptions, *, drop_path: float = 0.0) -> ModelRecipe:
    """DINOv2 ViT-S/14 under the decoder; its position table is resized as in its own training."""
    encoder = ViTOptions(name="vit_small_patch14_dinov2.lvd142m", drop_path=drop_path)
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes)
