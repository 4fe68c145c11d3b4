"""Procedurally drawn scenes: small models that train on a laptop's processor in minutes."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.mask_classification import MASK2FORMER_OPTIM, SMALL_MASK2FORMER
from semask.recipes.recipe import (
    DataRecipe,
    DecoderRecipe,
    EncoderRecipe,
    LossRecipe,
    MaskLossRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    TestRecipe,
    TrainRecipe,
)
from semask.recipes.segmenter import PYRAMID_HEAD

NUM_CLASSES = 12
MICRO = EncoderRecipe(
    weights=None,
    embed_dim=32,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    window_size=4,
    drop_path=0.0,
    semantic_layers=True,
    semantic_windows=(4, 4, None, None),
)


def semask_micro_fpn() -> Recipe:
    """A Swin of 32 … 256 channels with semantic layers; `make demo` trains it."""
    return Recipe(
        name="scenes/semask-micro-fpn",
        model=ModelRecipe(encoder=MICRO, decoder=DecoderRecipe(channels=64), num_classes=NUM_CLASSES),
        data=DataRecipe(kind="scenes", crop=(128, 128), category_cap=1.0),
        optim=OptimRecipe(lr=3e-3, weight_decay=0.01, warmup_steps=50, warmup_ratio=1e-2),
        train=TrainRecipe(steps=650, batch_size=8, clip_norm=1.0, eval_every=325),
        test=TestRecipe(batch_size=8),
    )


def micro_fpn() -> Recipe:
    """The same without semantic layers."""
    recipe = semask_micro_fpn()
    encoder = replace(MICRO, semantic_layers=False)
    return replace(recipe, name="scenes/micro-fpn", model=replace(recipe.model, encoder=encoder))


def _mask(recipe: Recipe, name: str) -> Recipe:
    decoder = replace(PYRAMID_HEAD, channels=64)
    return replace(recipe, name=f"scenes/{name}", model=replace(recipe.model, decoder=decoder))


def semask_micro_seg_mask() -> Recipe:
    """Segmenter's Mask Transformer over the fused pyramid."""
    return _mask(semask_micro_fpn(), "semask-micro-seg-mask")


def micro_seg_mask() -> Recipe:
    """The same without semantic layers."""
    return _mask(micro_fpn(), "micro-seg-mask")


def micro_seg() -> Recipe:
    """Segmenter with the linear decoder over ViT-Ti and patches of 8 pixels."""
    recipe = semask_micro_fpn()
    encoder = EncoderRecipe(
        name="vit_tiny_patch16_224",
        weights=None,
        image_size=recipe.data.crop,
        patch_size=8,
        norm_eps=1e-5,
        position_resize="bilinear",
        drop_path=0.1,
    )
    decoder = DecoderRecipe(name="segmenter_linear", channels=None)
    return replace(
        recipe,
        name="scenes/micro-seg",
        model=replace(recipe.model, encoder=encoder, decoder=decoder),
        optim=replace(recipe.optim, lr=1e-3),
    )


def _mask2former(recipe: Recipe, name: str) -> Recipe:
    decoder = replace(SMALL_MASK2FORMER, channels=64, heads=4, queries=24, layers=3, feedforward=256, pixel_layers=2)
    return replace(
        recipe,
        name=f"scenes/{name}",
        model=replace(recipe.model, decoder=decoder),
        loss=LossRecipe(masks=MaskLossRecipe(points=1024), denominator="valid"),
        optim=replace(MASK2FORMER_OPTIM, lr=3e-3, encoder_lr_scale=1.0, warmup_steps=50, warmup_ratio=1e-2),
    )


def semask_micro_mask2former() -> Recipe:
    """A small Mask2Former of 24 queries."""
    return _mask2former(semask_micro_fpn(), "semask-micro-mask2former")


def micro_mask2former() -> Recipe:
    """The same without semantic layers."""
    return _mask2former(micro_fpn(), "micro-mask2former")


RECIPES = (
    semask_micro_fpn,
    micro_fpn,
    micro_seg,
    semask_micro_seg_mask,
    micro_seg_mask,
    semask_micro_mask2former,
    micro_mask2former,
)
