"""Your own folder of images/ and labels/; the class count follows from its classes.json."""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.compact import LINEAR, MASK, dinov2, lite0_fpn, lite0_mask2former
from semask.recipes.mask_classification import MASK2FORMER_OPTIM, mask2former
from semask.recipes.recipe import DataRecipe, LossRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
from semask.recipes.scenes import FPN, MICRO
from semask.recipes.segformer import segformer_mmseg
from semask.recipes.swin import semask_swin, semask_swin_fpn, swin_fpn

PLACEHOLDER_CLASSES = 2
"""Replaced by the number of classes in classes.json."""


def _row(name: str, model: ModelRecipe, *, side: int, short: int, lr: float, steps: int) -> Recipe:
    """A recipe whose images of any size get `short` pixels on their shorter side, in training and test alike."""
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


def _slow_encoder(recipe: Recipe, scale: float) -> Recipe:
    return replace(recipe, optim=replace(recipe.optim, encoder_lr_scale=scale))


def _mask2former(recipe: Recipe, *, encoder_lr_scale: float) -> Recipe:
    """The row with the loss, decay and clipping of Mask2Former; its rate and warm-up stay."""
    before = recipe.optim
    optim = replace(
        MASK2FORMER_OPTIM,
        lr=before.lr,
        encoder_lr_scale=encoder_lr_scale,
        warmup_steps=before.warmup_steps,
        warmup_ratio=before.warmup_ratio,
    )
    train = replace(recipe.train, clip_norm=0.1)
    return replace(recipe, loss=LossRecipe(normalize_by="valid"), optim=optim, train=train)


K = PLACEHOLDER_CLASSES
LARGE = {"side": 512, "short": 512, "steps": 20_000}
"""For a GPU."""
SMALL = {"side": 256, "short": 384}
"""For a CPU."""
FROZEN = _row("dinov2-s-linear-frozen", dinov2(K, LINEAR), side=364, short=364, lr=1e-2, steps=1000)
RECIPES = (
    # the micro Swin of the scenes starts from random weights
    _row(
        "semask-micro-fpn",
        ModelRecipe(encoder=MICRO, decoder=FPN, num_classes=K),
        side=128,
        short=192,
        lr=2e-3,
        steps=1000,
    ),
    _row("semask-swin-t-fpn", semask_swin_fpn("t", K, global_from=4), lr=1e-4, **LARGE),
    _row("swin-t-fpn", swin_fpn("t", K), lr=1e-4, **LARGE),
    # ImageNet weights of Mix Transformers come from a file: --model.encoder.weights FILE
    _slow_encoder(_row("semask-segformer-b0", segformer_mmseg("b0", K, semantic=True), lr=6e-4, **LARGE), 0.1),
    _row("semask-lite0-fpn", lite0_fpn(K, semantic=True, channels=64), lr=1e-3, steps=2000, **SMALL),
    _row("lite0-fpn", lite0_fpn(K, semantic=False, channels=64), lr=1e-3, steps=2000, **SMALL),
    _mask2former(
        _row("semask-swin-t-mask2former", mask2former(semask_swin("t", global_from=4), K), lr=1e-4, **LARGE),
        encoder_lr_scale=0.1,
    ),
    _mask2former(
        _row("semask-lite0-mask2former", lite0_mask2former(K, semantic=True), lr=5e-4, steps=4000, **SMALL),
        encoder_lr_scale=0.2,
    ),
    # every image is encoded four times, then training is quick
    replace(FROZEN, train=replace(FROZEN.train, freeze_encoder=True, cached_views=4)),
    _slow_encoder(
        _row("dinov2-s-mask", dinov2(K, MASK, drop_path=0.1), side=518, short=518, lr=5e-4, steps=10_000), 0.1
    ),
)
