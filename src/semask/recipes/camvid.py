"""CamVid, 11 classes, 480×360 street photographs."""

from __future__ import annotations

import dataclasses

from semask.recipes.dinov2 import LINEAR, MASK, dinov2
from semask.recipes.lite import lite0_fpn, lite0_mask2former
from semask.recipes.mask_classification import MASK2FORMER_OPTIM
from semask.recipes.recipe import (
    DataRecipe,
    DecoderRecipe,
    LossRecipe,
    MaskLossRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    TrainRecipe,
)
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 11
FULL = DataRecipe(
    classes="camvid", images="images/{split}", labels="labels/{split}", scale_range=(0.5, 2.0), crop=(352, 352)
)
HALF_SIZE = DataRecipe(
    classes="camvid",
    images="images/{split}",
    labels="labels/{split}",
    base_ratio=0.5,
    scale_range=(0.75, 1.75),
    crop=(160, 160),
)


def _small(name: str, *, semantic: bool) -> Recipe:
    return Recipe(
        name=f"camvid/{name}",
        model=lite0_fpn(NUM_CLASSES, semantic=semantic, channels=64),
        data=HALF_SIZE,
        optim=OptimRecipe(lr=1e-3, weight_decay=0.01, warmup_steps=100, warmup_ratio=1e-2, power=0.9),
        train=TrainRecipe(steps=2400, batch_size=8, ema=0.99, eval_every=400),
    )


def _full(name: str, model: ModelRecipe) -> Recipe:
    return Recipe(
        name=f"camvid/{name}",
        model=model,
        data=FULL,
        optim=OptimRecipe(lr=5e-4, weight_decay=0.01, warmup_steps=500, power=0.9),
        train=TrainRecipe(steps=10_000, batch_size=16, ema=0.999, eval_every=1000),
    )


def _frozen(name: str, decoder: DecoderRecipe, *, lr: float) -> Recipe:
    return Recipe(
        name=f"camvid/{name}",
        model=dinov2(NUM_CLASSES, decoder),
        data=dataclasses.replace(FULL, scale_range=None, crop=(364, 490), photometric=False),
        optim=OptimRecipe(lr=lr, weight_decay=0.01, warmup_steps=50, warmup_ratio=1e-2, power=0.9),
        train=TrainRecipe(steps=1000, batch_size=8, freeze_encoder=True, cached_views=2, ema=0.99, eval_every=500),
    )


def dinov2_s_linear_frozen() -> Recipe:
    """DINOv2 ViT-S/14 as it is, and a linear decoder on its features, which are computed once."""
    return _frozen("dinov2-s-linear-frozen", LINEAR, lr=1e-2)


def dinov2_s_mask_frozen() -> Recipe:
    """The same with a Mask Transformer."""
    return _frozen("dinov2-s-mask-frozen", MASK, lr=5e-4)


def _fine_tuned(name: str, decoder: DecoderRecipe) -> Recipe:
    return Recipe(
        name=f"camvid/{name}",
        model=dinov2(NUM_CLASSES, decoder, drop_path=0.1),
        data=dataclasses.replace(FULL, crop=(364, 364)),
        optim=OptimRecipe(
            lr=5e-4, encoder_lr_scale=0.1, weight_decay=0.01, warmup_steps=200, warmup_ratio=1e-2, power=0.9
        ),
        train=TrainRecipe(steps=4000, batch_size=16, ema=0.999, eval_every=500),
    )


def dinov2_s_linear() -> Recipe:
    """DINOv2 ViT-S/14 with a linear decoder, all of it trained, for an accelerator."""
    return _fine_tuned("dinov2-s-linear", LINEAR)


def dinov2_s_mask() -> Recipe:
    """DINOv2 ViT-S/14 with a Mask Transformer, all of it trained, for an accelerator."""
    return _fine_tuned("dinov2-s-mask", MASK)


def _fine_tuned_small(name: str, decoder: DecoderRecipe) -> Recipe:
    recipe = _fine_tuned(name, decoder)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(FULL, scale_range=(0.6, 1.2), crop=(224, 224)),
        optim=dataclasses.replace(recipe.optim, lr=1e-3, encoder_lr_scale=0.05, warmup_steps=30),
        train=TrainRecipe(steps=400, batch_size=8, ema=0.98, eval_every=200),
    )


def dinov2_s_linear_small() -> Recipe:
    """DINOv2 ViT-S/14 with a linear decoder, all of it trained on small crops: half an hour on two processor cores."""
    return _fine_tuned_small("dinov2-s-linear-small", LINEAR)


def dinov2_s_mask_small() -> Recipe:
    """The same with a Mask Transformer."""
    return _fine_tuned_small("dinov2-s-mask-small", MASK)


def semask_lite0_fpn_small() -> Recipe:
    """Half-size crops and a narrow decoder: half an hour on two processor cores."""
    return _small("semask-lite0-fpn-small", semantic=True)


def lite0_fpn_small() -> Recipe:
    """The same without semantic layers."""
    return _small("lite0-fpn-small", semantic=False)


def semask_lite0_fpn() -> Recipe:
    """Full-size crops, for an accelerator."""
    return _full("semask-lite0-fpn", lite0_fpn(NUM_CLASSES, semantic=True, channels=128))


def lite0_fpn_full() -> Recipe:
    """The same without semantic layers."""
    return _full("lite0-fpn", lite0_fpn(NUM_CLASSES, semantic=False, channels=128))


def _mask_small(name: str, *, semantic: bool) -> Recipe:
    return Recipe(
        name=f"camvid/{name}",
        model=lite0_mask2former(NUM_CLASSES, semantic=semantic, layers=3),
        loss=LossRecipe(masks=MaskLossRecipe(points=2048), denominator="valid"),
        data=HALF_SIZE,
        optim=dataclasses.replace(
            MASK2FORMER_OPTIM, lr=1e-3, encoder_lr_scale=0.5, warmup_steps=100, warmup_ratio=1e-2
        ),
        train=TrainRecipe(steps=1600, batch_size=8, clip_norm=0.1, ema=0.99, eval_every=400),
    )


def semask_lite0_mask2former_small() -> Recipe:
    """A small Mask2Former on half-size crops, for a processor."""
    return _mask_small("semask-lite0-mask2former-small", semantic=True)


def lite0_mask2former_small() -> Recipe:
    """The same without semantic layers."""
    return _mask_small("lite0-mask2former-small", semantic=False)


def _mask_full(name: str, *, semantic: bool) -> Recipe:
    recipe = _full(name, lite0_mask2former(NUM_CLASSES, semantic=semantic))
    return dataclasses.replace(
        recipe,
        loss=LossRecipe(denominator="valid"),
        optim=dataclasses.replace(MASK2FORMER_OPTIM, lr=5e-4, encoder_lr_scale=0.2, warmup_steps=500),
        train=dataclasses.replace(recipe.train, clip_norm=0.1),
    )


def semask_lite0_mask2former() -> Recipe:
    """A small Mask2Former on full-size crops, for an accelerator."""
    return _mask_full("semask-lite0-mask2former", semantic=True)


def lite0_mask2former_full() -> Recipe:
    """The same without semantic layers."""
    return _mask_full("lite0-mask2former", semantic=False)


def semask_swin_t_fpn() -> Recipe:
    """SeMask Swin-T on full-size crops."""
    return _full("semask-swin-t-fpn", semask_swin_fpn("t", NUM_CLASSES, global_from=4))


def swin_t_fpn() -> Recipe:
    """Swin-T on full-size crops."""
    return _full("swin-t-fpn", swin_fpn("t", NUM_CLASSES))


RECIPES = (
    semask_lite0_fpn_small,
    lite0_fpn_small,
    semask_lite0_fpn,
    lite0_fpn_full,
    semask_lite0_mask2former_small,
    lite0_mask2former_small,
    semask_lite0_mask2former,
    lite0_mask2former_full,
    semask_swin_t_fpn,
    swin_t_fpn,
    dinov2_s_linear_frozen,
    dinov2_s_mask_frozen,
    dinov2_s_linear_small,
    dinov2_s_mask_small,
    dinov2_s_linear,
    dinov2_s_mask,
)
