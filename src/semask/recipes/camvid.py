"""CamVid, 11 classes, 480×360 street photographs. Names that end in -small fit two CPU cores and half an hour."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.compact import LINEAR, MASK, dinov2, lite0_fpn, lite0_mask2former
from semask.recipes.decoders import DecoderOptions
from semask.recipes.mask_classification import MASK2FORMER_OPTIM
from semask.recipes.recipe import DataRecipe, LossRecipe, MaskLossRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 11
FULL = DataRecipe(
    classes="camvid", images="images/{split}", labels="labels/{split}", scale_range=(0.5, 2.0), crop=(352, 352)
)
HALF_SIZE = replace(FULL, base_ratio=0.5, scale_range=(0.75, 1.75), crop=(160, 160))


def _small(name: str, *, semantic: bool) -> Recipe:
    """Half-size crops and a narrow decoder."""
    return Recipe(
        name=f"camvid/{name}",
        model=lite0_fpn(NUM_CLASSES, semantic=semantic, channels=64),
        data=HALF_SIZE,
        optim=OptimRecipe(lr=1e-3, weight_decay=0.01, warmup_steps=100, warmup_ratio=1e-2, power=0.9),
        train=TrainRecipe(steps=2400, batch_size=8, ema=0.99, eval_every=400),
    )


def _full(name: str, model: ModelRecipe) -> Recipe:
    """Full-size crops, for a GPU."""
    return Recipe(
        name=f"camvid/{name}",
        model=model,
        data=FULL,
        optim=OptimRecipe(lr=5e-4, weight_decay=0.01, warmup_steps=500, power=0.9),
        train=TrainRecipe(steps=10_000, batch_size=16, ema=0.999, eval_every=1000),
    )


def _mask_small(name: str, *, semantic: bool) -> Recipe:
    """A small Mask2Former on half-size crops."""
    return Recipe(
        name=f"camvid/{name}",
        model=lite0_mask2former(NUM_CLASSES, semantic=semantic, layers=3),
        loss=LossRecipe(masks=MaskLossRecipe(points=2048), normalize_by="valid"),
        data=HALF_SIZE,
        optim=replace(MASK2FORMER_OPTIM, lr=1e-3, encoder_lr_scale=0.5, warmup_steps=100, warmup_ratio=1e-2),
        train=TrainRecipe(steps=1600, batch_size=8, clip_norm=0.1, ema=0.99, eval_every=400),
    )


def _mask_full(name: str, *, semantic: bool) -> Recipe:
    """A small Mask2Former on full-size crops, for a GPU."""
    recipe = _full(name, lite0_mask2former(NUM_CLASSES, semantic=semantic))
    return replace(
        recipe,
        loss=LossRecipe(normalize_by="valid"),
        optim=replace(MASK2FORMER_OPTIM, lr=5e-4, encoder_lr_scale=0.2, warmup_steps=500),
        train=replace(recipe.train, clip_norm=0.1),
    )


def _frozen(name: str, decoder: DecoderOptions, *, lr: float) -> Recipe:
    """DINOv2 ViT-S/14 as it is, and a decoder on its features, which are computed once."""
    return Recipe(
        name=f"camvid/{name}",
        model=dinov2(NUM_CLASSES, decoder),
        data=replace(FULL, scale_range=None, crop=(364, 490), photometric=False),
        optim=OptimRecipe(lr=lr, weight_decay=0.01, warmup_steps=50, warmup_ratio=1e-2, power=0.9),
        train=TrainRecipe(steps=1000, batch_size=8, freeze_encoder=True, cached_views=2, ema=0.99, eval_every=500),
    )


def _fine_tuned(name: str, decoder: DecoderOptions) -> Recipe:
    """DINOv2 ViT-S/14 and a decoder, all of it trained, for a GPU."""
    return Recipe(
        name=f"camvid/{name}",
        model=dinov2(NUM_CLASSES, decoder, drop_path=0.1),
        data=replace(FULL, crop=(364, 364)),
        optim=OptimRecipe(
            lr=5e-4, encoder_lr_scale=0.1, weight_decay=0.01, warmup_steps=200, warmup_ratio=1e-2, power=0.9
        ),
        train=TrainRecipe(steps=4000, batch_size=16, ema=0.999, eval_every=500),
    )


def _fine_tuned_small(name: str, decoder: DecoderOptions) -> Recipe:
    """The same on small crops."""
    recipe = _fine_tuned(name, decoder)
    return replace(
        recipe,
        data=replace(FULL, scale_range=(0.6, 1.2), crop=(224, 224)),
        optim=replace(recipe.optim, lr=1e-3, encoder_lr_scale=0.05, warmup_steps=30),
        train=TrainRecipe(steps=400, batch_size=8, ema=0.98, eval_every=200),
    )


RECIPES = (
    _small("semask-lite0-fpn-small", semantic=True),
    _small("lite0-fpn-small", semantic=False),
    _full("semask-lite0-fpn", lite0_fpn(NUM_CLASSES, semantic=True, channels=128)),
    _full("lite0-fpn", lite0_fpn(NUM_CLASSES, semantic=False, channels=128)),
    _mask_small("semask-lite0-mask2former-small", semantic=True),
    _mask_small("lite0-mask2former-small", semantic=False),
    _mask_full("semask-lite0-mask2former", semantic=True),
    _mask_full("lite0-mask2former", semantic=False),
    _full("semask-swin-t-fpn", semask_swin_fpn("t", NUM_CLASSES, global_from=4)),
    _full("swin-t-fpn", swin_fpn("t", NUM_CLASSES)),
    _frozen("dinov2-s-linear-frozen", LINEAR, lr=1e-2),
    _frozen("dinov2-s-mask-frozen", MASK, lr=5e-4),
    _fine_tuned_small("dinov2-s-linear-small", LINEAR),
    _fine_tuned_small("dinov2-s-mask-small", MASK),
    _fine_tuned("dinov2-s-linear", LINEAR),
    _fine_tuned("dinov2-s-mask", MASK),
)
