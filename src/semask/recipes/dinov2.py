"""Segmenter's decoders on DINOv2, a ViT that was trained without labels (arXiv:2304.07193)."""

from __future__ import annotations

from semask.recipes.recipe import DecoderRecipe, EncoderRecipe, ModelRecipe

LINEAR = DecoderRecipe(name="segmenter_linear", channels=None, dropout=0.0)
MASK = DecoderRecipe(name="segmenter_mask", channels=None, dropout=0.1)


def dinov2(num_classes: int, decoder: DecoderRecipe, *, drop_path: float = 0.0) -> ModelRecipe:
    """Return ViT-S/14 with the decoder; its position table is resized as in its own training."""
    encoder = EncoderRecipe(name="vit_small_patch14_dinov2.lvd142m", drop_path=drop_path)
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes)
