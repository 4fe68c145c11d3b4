"""Your own folder of images/ and labels/; the class count follows from its classes.json."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.dinov2 import LINEAR, MASK, dinov2
from semask.recipes.lite import lite0_fpn, lite0_mask2former
from semask.recipes.mask_classification import MASK2FORMER_OPTIM, mask2former
from semask.recipes.recipe import DataRecipe, DecoderRecipe, LossRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from semask.recipes.scenes import MICRO
from semask.recipes.segformer import segformer_mmseg
from semask.recipes.swin import semask_swin, semask_swin_fpn, swin_fpn

PLACEHOLDER_CLASSES = 2
"""Replaced by the number of classes in classes.json."""


def _row(name: str, model: ModelRecipe, *, side: int, short: int, lr: float, steps: int) -> Recipe:
    """Pictures of any size are brought to `short` pixels on their shorter side, in training and test alike."""
    return Recipe(
        name=f"folder/{name}",
        model=model,
        data=DataRecipe(
            classes_from_data=True,
            images="images",
            labels="labels",
            base_scale=(4 * short, short),
            scale_range=(0.5, 2.0),
            crop=(side, side),
        ),
        optim=OptimRecipe(lr=lr, weight_decay=0.01, warmup_steps=steps // 20, warmup_ratio=1e-2, power=0.9),
        train=TrainRecipe(steps=steps, batch_size=8, ema=0.99, eval_every=max(1, steps // 10)),
    )


def semask_swin_t_fpn() -> Recipe:
    """SeMask Swin-T, for an accelerator."""
    model = semask_swin_fpn("t", PLACEHOLDER_CLASSES, global_from=4)
    return _row("semask-swin-t-fpn", model, side=512, short=512, lr=1e-4, steps=20_000)


def swin_t_fpn() -> Recipe:
    """Swin-T, for an accelerator."""
    return _row("swin-t-fpn", swin_fpn("t", PLACEHOLDER_CLASSES), side=512, short=512, lr=1e-4, steps=20_000)


def semask_segformer_b0() -> Recipe:
    """SegFormer-B0 with semantic layers; give ImageNet weights with --model.encoder.weights FILE."""
    model = segformer_mmseg("b0", PLACEHOLDER_CLASSES, semantic=True)
    row = _row("semask-segformer-b0", model, side=512, short=512, lr=6e-4, steps=20_000)
    return replace(row, optim=replace(row.optim, encoder_lr_scale=0.1))


def semask_lite0_fpn() -> Recipe:
    """EfficientNet-Lite0 with semantic layers, trainable on a processor."""
    model = lite0_fpn(PLACEHOLDER_CLASSES, semantic=True, channels=64)
    return _row("semask-lite0-fpn", model, side=256, short=384, lr=1e-3, steps=2000)


def lite0_fpn_plain() -> Recipe:
    """EfficientNet-Lite0 without semantic layers."""
    model = lite0_fpn(PLACEHOLDER_CLASSES, semantic=False, channels=64)
    return _row("lite0-fpn", model, side=256, short=384, lr=1e-3, steps=2000)


def _mask2former(recipe: Recipe, *, encoder_lr_scale: float) -> Recipe:
    """Return the row with the loss, decay and clipping of Mask2Former; its rate and warm-up stay."""
    optim = replace(
        MASK2FORMER_OPTIM,
        lr=recipe.optim.lr,
        encoder_lr_scale=encoder_lr_scale,
        warmup_steps=recipe.optim.warmup_steps,
        warmup_ratio=recipe.optim.warmup_ratio,
    )
    return replace(
        recipe,
        loss=LossRecipe(denominator="valid"),
        optim=optim,
        train=replace(recipe.train, clip_norm=0.1),
    )


def semask_swin_t_mask2former() -> Recipe:
    """SeMask Swin-T under Mask2Former, for an accelerator."""
    model = mask2former(semask_swin("t", global_from=4), PLACEHOLDER_CLASSES)
    row = _row("semask-swin-t-mask2former", model, side=512, short=512, lr=1e-4, steps=20_000)
    return _mask2former(row, encoder_lr_scale=0.1)


def semask_lite0_mask2former() -> Recipe:
    """EfficientNet-Lite0 with semantic layers under a small Mask2Former, for an accelerator or a patient processor."""
    model = lite0_mask2former(PLACEHOLDER_CLASSES, semantic=True)
    row = _row("semask-lite0-mask2former", model, side=256, short=384, lr=5e-4, steps=4000)
    return _mask2former(row, encoder_lr_scale=0.2)


def semask_micro_fpn() -> Recipe:
    """The micro Swin of the scenes: starts from random weights, learns on a processor."""
    model = ModelRecipe(encoder=MICRO, decoder=DecoderRecipe(channels=64), num_classes=PLACEHOLDER_CLASSES)
    return _row("semask-micro-fpn", model, side=128, short=192, lr=2e-3, steps=1000)


def dinov2_s_linear_frozen() -> Recipe:
    """DINOv2 ViT-S/14 as it is under a linear decoder: every picture is encoded four times, then training is quick."""
    recipe = _row(
        "dinov2-s-linear-frozen", dinov2(PLACEHOLDER_CLASSES, LINEAR), side=364, short=364, lr=1e-2, steps=1000
    )
    return replace(recipe, train=replace(recipe.train, freeze_encoder=True, cached_views=4))


def dinov2_s_mask() -> Recipe:
    """DINOv2 ViT-S/14 under a Mask Transformer, all of it trained, for an accelerator."""
    model = dinov2(PLACEHOLDER_CLASSES, MASK, drop_path=0.1)
    recipe = _row("dinov2-s-mask", model, side=518, short=518, lr=5e-4, steps=10_000)
    return replace(recipe, optim=replace(recipe.optim, encoder_lr_scale=0.1))


RECIPES = (
    semask_micro_fpn,
    semask_swin_t_fpn,
    swin_t_fpn,
    semask_segformer_b0,
    semask_lite0_fpn,
    lite0_fpn_plain,
    semask_swin_t_mask2former,
    semask_lite0_mask2former,
    dinov2_s_linear_frozen,
    dinov2_s_mask,
)
