"""Cityscapes, 19 classes: the FPN rows of SeMask's Table 2, and Segmenter. Semantic attention is windowed everywhere.

Source of every figure: SeMask (arXiv:2112.12782) Table 2; Segmenter's model zoo. Training numbers from the authors'
configurations.
"""

from __future__ import annotations

from semask.recipes.recipe import DataRecipe, ModelRecipe, OptimRecipe, Published, Recipe, TrainRecipe
from semask.recipes.segmenter import Schedule, Variant, readme, segmenter, segmenter_name, segmenter_recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 19
DATA = DataRecipe(
    classes="cityscapes",
    images="leftImg8bit/{split}",
    labels="gtFine/{split}",
    image_suffix="_leftImg8bit.png",
    label_suffix="_gtFine_labelTrainIds.png",
    base_scale=(2048, 1024),
    scale_range=(0.5, 2.0),
    crop=(768, 768),
)


def _row(name: str, model: ModelRecipe, *, published: Published, warmup_ratio: float = 1e-5) -> Recipe:
    return Recipe(
        name=f"cityscapes/{name}",
        model=model,
        data=DATA,
        optim=OptimRecipe(lr=1e-3, weight_decay=0.05, warmup_ratio=warmup_ratio),
        train=TrainRecipe(batch_size=8),
        published=published,
    )


def _table2(parameters: float, flops: float, miou: float, miou_ms: float) -> Published:
    return Published(
        parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source="SeMask Table 2, Cityscapes"
    )


def swin_t_fpn() -> Recipe:
    """Swin-T FPN: 71.81 mIoU."""
    return _row("swin-t-fpn", swin_fpn("t", NUM_CLASSES), published=_table2(33, 81, 71.81, 73.74))


def semask_swin_t_fpn() -> Recipe:
    """SeMask-T FPN: 74.92 mIoU."""
    model = semask_swin_fpn("t", NUM_CLASSES, global_from=4)
    return _row("semask-swin-t-fpn", model, published=_table2(34, 84, 74.92, 76.56))


def swin_s_fpn() -> Recipe:
    """Swin-S FPN: 75.19 mIoU."""
    return _row("swin-s-fpn", swin_fpn("s", NUM_CLASSES), published=_table2(54, 130, 75.19, 77.68))


def semask_swin_s_fpn() -> Recipe:
    """SeMask-S FPN: 77.13 mIoU."""
    model = semask_swin_fpn("s", NUM_CLASSES, global_from=4)
    return _row("semask-swin-s-fpn", model, published=_table2(56, 134, 77.13, 79.14))


def swin_b_fpn() -> Recipe:
    """Swin-B FPN, ImageNet-22k: 76.54 mIoU."""
    model = swin_fpn("b", NUM_CLASSES)
    return _row("swin-b-fpn", model, published=_table2(93, 211, 76.54, 79.05), warmup_ratio=1e-6)


def semask_swin_b_fpn() -> Recipe:
    """SeMask-B FPN, ImageNet-22k: 77.70 mIoU."""
    model = semask_swin_fpn("b", NUM_CLASSES, global_from=4)
    return _row("semask-swin-b-fpn", model, published=_table2(96, 217, 77.70, 79.73), warmup_ratio=1e-6)


def swin_l_fpn() -> Recipe:
    """Swin-L FPN, ImageNet-22k: 78.03 mIoU."""
    return _row("swin-l-fpn", swin_fpn("l", NUM_CLASSES), published=_table2(204, 444, 78.03, 79.53))


def semask_swin_l_fpn() -> Recipe:
    """SeMask-L FPN, ImageNet-22k: 78.53 mIoU."""
    model = semask_swin_fpn("l", NUM_CLASSES, global_from=4)
    return _row("semask-swin-l-fpn", model, published=_table2(211, 455, 78.53, 80.39))


def _segmenter(variant: Variant, *, mask: bool, layers: int = 2, published: Published | None = None) -> Recipe:
    return segmenter_recipe(
        f"cityscapes/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=768, mask=mask, layers=layers),
        DATA,
        schedule=Schedule(lr=1e-2, batch_size=8, steps_per_epoch=372, epochs=216, eval_epochs=4, eval_stride=512),
        published=published or Published(),
    )


def seg_b_deit_16() -> Recipe:
    """Seg-B†/16 (DeiT, distilled)."""
    return _segmenter("b-deit-16", mask=False)


def seg_b_deit_mask_16() -> Recipe:
    """Seg-B†-Mask/16 (DeiT, distilled)."""
    return _segmenter("b-deit-16", mask=True)


def seg_l_16() -> Recipe:
    """Seg-L/16."""
    return _segmenter("l-16", mask=False)


def seg_l_mask_16() -> Recipe:
    """Seg-L-Mask/16; its Mask Transformer has one layer: 79.1 mIoU."""
    return _segmenter("l-16", mask=True, layers=1, published=readme(322, 79.1, 81.3))


RECIPES = (
    swin_t_fpn,
    semask_swin_t_fpn,
    swin_s_fpn,
    semask_swin_s_fpn,
    swin_b_fpn,
    semask_swin_b_fpn,
    swin_l_fpn,
    semask_swin_l_fpn,
    seg_b_deit_16,
    seg_b_deit_mask_16,
    seg_l_16,
    seg_l_mask_16,
)
