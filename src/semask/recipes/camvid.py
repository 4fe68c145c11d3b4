"""CamVid, 11 classes, 480×360 street photographs."""

from __future__ import annotations

from semask.recipes.lite import lite0_fpn
from semask.recipes.recipe import DataRecipe, ModelRecipe, OptimRecipe, Recipe, TrainRecipe
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


def semask_swin_t_fpn() -> Recipe:
    """SeMask Swin-T on full-size crops."""
    return _full("semask-swin-t-fpn", semask_swin_fpn("t", NUM_CLASSES, global_from=4))


def swin_t_fpn() -> Recipe:
    """Swin-T on full-size crops."""
    return _full("swin-t-fpn", swin_fpn("t", NUM_CLASSES))


RECIPES = (semask_lite0_fpn_small, lite0_fpn_small, semask_lite0_fpn, lite0_fpn_full, semask_swin_t_fpn, swin_t_fpn)
