"""Procedurally drawn scenes: small models that train on a laptop's CPU in minutes."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.compact import SMALL_MASK2FORMER
from semask.recipes.decoders import MSDeformOptions, SegmenterLinearOptions, SemanticFPNOptions
from semask.recipes.encoders import SemanticLayers, SwinOptions, ViTOptions
from semask.recipes.mask_classification import MASK2FORMER_OPTIM
from semask.recipes.recipe import (
    DataRecipe,
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
MICRO = SwinOptions(
    weights=None,
    embed_dim=32,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    window_size=4,
    semantic=SemanticLayers(windows=(4, 4, None, None)),
)
"""A Swin of 32 … 256 channels with semantic layers."""
MICRO_VIT = ViTOptions(
    name="vit_tiny_patch16_224",
    weights=None,
    image_size=(128, 128),
    patch_size=8,
    norm_eps=1e-5,
    position_resize="bilinear",
    drop_path=0.1,
)
"""ViT-Ti with patches of 8 pixels."""
FPN = SemanticFPNOptions(channels=64)
# `make demo` trains it.
SEMASK_MICRO_FPN = Recipe(
    name="scenes/semask-micro-fpn",
    model=ModelRecipe(encoder=MICRO, decoder=FPN, num_classes=NUM_CLASSES),
    data=DataRecipe(kind="scenes", crop=(128, 128), cat_max_ratio=1.0),
    optim=OptimRecipe(lr=3e-3, weight_decay=0.01, warmup_steps=50, warmup_ratio=1e-2),
    train=TrainRecipe(steps=650, batch_size=8, clip_norm=1.0, eval_every=325),
    test=TestRecipe(batch_size=8),
)
SEGMENTER = replace(
    SEMASK_MICRO_FPN,
    name="scenes/micro-seg",
    model=ModelRecipe(encoder=MICRO_VIT, decoder=SegmenterLinearOptions(), num_classes=NUM_CLASSES),
    optim=replace(SEMASK_MICRO_FPN.optim, lr=1e-3),
)
SEG_MASK = replace(
    SEMASK_MICRO_FPN,
    name="scenes/semask-micro-seg-mask",
    model=replace(SEMASK_MICRO_FPN.model, decoder=replace(PYRAMID_HEAD, channels=64)),
)
MASK2FORMER = replace(
    SEMASK_MICRO_FPN,
    name="scenes/semask-micro-mask2former",
    model=replace(
        SEMASK_MICRO_FPN.model,
        decoder=replace(
            SMALL_MASK2FORMER,
            pixel_decoder=MSDeformOptions(layers=2, feedforward=256),
            channels=64,
            heads=4,
            queries=24,
            layers=3,
            feedforward=256,
        ),
    ),
    loss=LossRecipe(masks=MaskLossRecipe(points=1024), normalize_by="valid"),
    optim=replace(MASK2FORMER_OPTIM, lr=3e-3, encoder_lr_scale=1.0, warmup_steps=50, warmup_ratio=1e-2),
)


def _without_layers(recipe: Recipe) -> Recipe:
    model = replace(recipe.model, encoder=replace(MICRO, semantic=None))
    return replace(recipe, name=recipe.name.replace("semask-", ""), model=model)


RECIPES = (
    SEMASK_MICRO_FPN,
    _without_layers(SEMASK_MICRO_FPN),
    SEGMENTER,
    SEG_MASK,
    _without_layers(SEG_MASK),
    MASK2FORMER,
    _without_layers(MASK2FORMER),
)
