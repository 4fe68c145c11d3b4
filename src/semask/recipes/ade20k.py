"""ADE20K, 150 classes: the FPN rows of SeMask's Table 2.

Source of every figure: SeMask (arXiv:2112.12782) Table 2; training numbers from the authors' configurations.
"""

from __future__ import annotations

from semask.recipes.recipe import DataRecipe, LossRecipe, ModelRecipe, OptimRecipe, Published, Recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 150
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
OHEM_PIXELS = 100_000


def ade20k_data(side: int, *, category_cap: float, jitter: bool) -> DataRecipe:
    """Return the data for square crops of `side` [px]; `jitter` draws scales from a range instead of SCALES."""
    return DataRecipe(
        classes="ade20k",
        images="images/{split}",
        labels="annotations/{split}",
        image_suffix=".jpg",
        train_split="training",
        val_split="validation",
        base_scale=(4 * side, side),
        scale_choices=None if jitter else SCALES,
        scale_range=(0.5, 2.0) if jitter else None,
        crop=(side, side),
        category_cap=category_cap,
    )


def _row(name: str, model: ModelRecipe, *, large: bool, category_cap: float, published: Published) -> Recipe:
    return Recipe(
        name=f"ade20k/{name}",
        model=model,
        loss=LossRecipe(ohem_pixels=OHEM_PIXELS if large else None),
        data=ade20k_data(640 if large else 512, category_cap=category_cap, jitter=not name.startswith("semask")),
        optim=OptimRecipe(),
        published=published,
    )


def _table2(parameters: float, flops: float, miou: float, miou_ms: float) -> Published:
    return Published(parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source="SeMask Table 2, ADE20K")


def swin_t_fpn() -> Recipe:
    """Swin-T FPN: 41.48 mIoU."""
    model = swin_fpn("t", NUM_CLASSES)
    return _row("swin-t-fpn", model, large=False, category_cap=0.75, published=_table2(33, 38, 41.48, 42.89))


def semask_swin_t_fpn() -> Recipe:
    """SeMask-T FPN: 42.06 mIoU."""
    model = semask_swin_fpn("t", NUM_CLASSES, global_from=2)
    return _row("semask-swin-t-fpn", model, large=False, category_cap=0.75, published=_table2(35, 40, 42.06, 43.36))


def swin_s_fpn() -> Recipe:
    """Swin-S FPN: 45.20 mIoU."""
    model = swin_fpn("s", NUM_CLASSES)
    return _row("swin-s-fpn", model, large=False, category_cap=0.75, published=_table2(54, 61, 45.20, 46.96))


def semask_swin_s_fpn() -> Recipe:
    """SeMask-S FPN: 45.92 mIoU."""
    model = semask_swin_fpn("s", NUM_CLASSES, global_from=2)
    return _row("semask-swin-s-fpn", model, large=False, category_cap=1.0, published=_table2(56, 63, 45.92, 47.63))


def swin_b_fpn() -> Recipe:
    """Swin-B FPN, ImageNet-22k: 48.80 mIoU."""
    model = swin_fpn("b", NUM_CLASSES)
    return _row("swin-b-fpn", model, large=False, category_cap=0.75, published=_table2(93, 103, 48.80, 50.28))


def semask_swin_b_fpn() -> Recipe:
    """SeMask-B FPN, ImageNet-22k: 49.35 mIoU. Its semantic attention is windowed in every stage."""
    model = semask_swin_fpn("b", NUM_CLASSES, global_from=4)
    return _row("semask-swin-b-fpn", model, large=False, category_cap=1.0, published=_table2(96, 107, 49.35, 50.98))


def swin_l_fpn() -> Recipe:
    """Swin-L FPN, ImageNet-22k, crops of 640²: 50.85 mIoU."""
    model = swin_fpn("l", NUM_CLASSES)
    return _row("swin-l-fpn", model, large=True, category_cap=0.75, published=_table2(204, 343, 50.85, 52.95))


def semask_swin_l_fpn() -> Recipe:
    """SeMask-L FPN, ImageNet-22k, crops of 640²: 51.89 mIoU."""
    model = semask_swin_fpn("l", NUM_CLASSES, global_from=2)
    return _row("semask-swin-l-fpn", model, large=True, category_cap=1.0, published=_table2(212, 356, 51.89, 53.52))


RECIPES = (
    swin_t_fpn,
    semask_swin_t_fpn,
    swin_s_fpn,
    semask_swin_s_fpn,
    swin_b_fpn,
    semask_swin_b_fpn,
    swin_l_fpn,
    semask_swin_l_fpn,
)
