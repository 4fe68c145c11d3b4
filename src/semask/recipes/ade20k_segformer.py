"""ADE20K, 150 classes: SegFormer as published, and the two MiT-B4 rows of SeMask's Table 6.

Source of every figure: SegFormer (arXiv:2105.15203) Table 1; SeMask (arXiv:2112.12782) Table 6.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.ade20k import NUM_CLASSES, ade20k_data
from semask.recipes.recipe import ModelRecipe, Published, Recipe
from semask.recipes.segformer import OPTIM, TRAIN, segformer, segformer_mmseg


def _row(name: str, model: ModelRecipe, published: Published, *, side: int = 512) -> Recipe:
    return Recipe(
        name=f"ade20k/{name}",
        model=model,
        data=ade20k_data(side, category_cap=0.75, jitter=True),
        optim=OPTIM,
        train=TRAIN,
        published=published,
    )


def _table1(parameters: float, flops: float, miou: float, miou_ms: float) -> Published:
    return Published(parameters=parameters, all_flops=flops, miou=miou, miou_ms=miou_ms, source="SegFormer Table 1")


def segformer_b0() -> Recipe:
    """SegFormer-B0: 37.4 mIoU."""
    return _row("segformer-b0", segformer("b0", NUM_CLASSES), _table1(3.8, 8.4, 37.4, 38.0))


def segformer_b1() -> Recipe:
    """SegFormer-B1: 42.2 mIoU."""
    return _row("segformer-b1", segformer("b1", NUM_CLASSES), _table1(13.7, 15.9, 42.2, 43.1))


def segformer_b2() -> Recipe:
    """SegFormer-B2: 46.5 mIoU."""
    return _row("segformer-b2", segformer("b2", NUM_CLASSES), _table1(27.5, 62.4, 46.5, 47.5))


def segformer_b3() -> Recipe:
    """SegFormer-B3: 49.4 mIoU."""
    return _row("segformer-b3", segformer("b3", NUM_CLASSES), _table1(47.3, 79.0, 49.4, 50.0))


def segformer_b4() -> Recipe:
    """SegFormer-B4: 50.3 mIoU."""
    return _row("segformer-b4", segformer("b4", NUM_CLASSES), _table1(64.1, 95.7, 50.3, 51.1))


def segformer_b5() -> Recipe:
    """SegFormer-B5, crops of 640² out of pictures of at most 2048 px: 51.0 mIoU."""
    row = _row("segformer-b5", segformer("b5", NUM_CLASSES), _table1(84.7, 183.3, 51.0, 51.8), side=640)
    return replace(row, data=replace(row.data, base_scale=(2048, 640)))


def segformer_b4_mmseg() -> Recipe:
    """SegFormer-B4 by mmsegmentation, which SeMask compares with: 48.46 mIoU."""
    published = Published(miou=48.46, miou_ms=49.76, source="SeMask Table 6, by mmsegmentation")
    return _row("segformer-b4-mmseg", segformer_mmseg("b4", NUM_CLASSES, semantic=False), published)


def semask_segformer_b4() -> Recipe:
    """SeMask SegFormer-B4, never released: 50.01 mIoU. Where its semantic layers stand is ours: decision 0011."""
    published = Published(miou=50.01, miou_ms=51.07, source="SeMask Table 6")
    return _row("semask-segformer-b4", segformer_mmseg("b4", NUM_CLASSES, semantic=True), published)


RECIPES = (
    segformer_b0,
    segformer_b1,
    segformer_b2,
    segformer_b3,
    segformer_b4,
    segformer_b5,
    segformer_b4_mmseg,
    semask_segformer_b4,
)
