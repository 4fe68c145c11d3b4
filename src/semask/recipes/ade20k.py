"""ADE20K, 150 classes: the FPN rows of SeMask's Table 2, and Segmenter.

Source of every figure: SeMask (arXiv:2112.12782) Table 2; Segmenter (arXiv:2105.05633), its text and its authors'
model zoo. Training numbers from the authors' configurations. Segmenter has a row for every ViT that has public ImageNet
weights; the large ones crop 640 px, as the published checkpoint (at 512 px the paper's text has 50.71 for Seg-L/16).
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.recipe import DataRecipe, LossRecipe, ModelRecipe, OptimRecipe, Published, Recipe
from semask.recipes.segmenter import (
    PYRAMID_HEAD,
    Schedule,
    Variant,
    readme,
    segmenter,
    segmenter_name,
    segmenter_recipe,
)
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


def swin_t_seg_mask() -> Recipe:
    """Segmenter's Mask Transformer over Swin-T's fused pyramid, to test SeMask's word that it fails there."""
    model = replace(swin_fpn("t", NUM_CLASSES), decoder=PYRAMID_HEAD)
    return _row("swin-t-seg-mask", model, large=False, category_cap=0.75, published=Published())


def semask_swin_t_seg_mask() -> Recipe:
    """The same with semantic layers."""
    model = replace(semask_swin_fpn("t", NUM_CLASSES, global_from=2), decoder=PYRAMID_HEAD)
    return _row("semask-swin-t-seg-mask", model, large=False, category_cap=0.75, published=Published())


def _segmenter(variant: Variant, *, mask: bool, published: Published | None = None) -> Recipe:
    side = 640 if variant.startswith("l-") else 512
    return segmenter_recipe(
        f"ade20k/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=side, mask=mask),
        ade20k_data(side, category_cap=0.75, jitter=True),
        schedule=Schedule(lr=1e-3, batch_size=8, steps_per_epoch=2527, epochs=64, eval_epochs=2, eval_stride=side),
        published=published or Published(),
    )


def _text(miou: float) -> Published:
    return Published(miou=miou, source="Segmenter, the paper's text")


def seg_t_16() -> Recipe:
    """Seg-T/16."""
    return _segmenter("t-16", mask=False)


def seg_t_mask_16() -> Recipe:
    """Seg-T-Mask/16: 38.1 mIoU."""
    return _segmenter("t-16", mask=True, published=readme(7, 38.1, 38.8))


def seg_s_16() -> Recipe:
    """Seg-S/16: 45.37 mIoU."""
    return _segmenter("s-16", mask=False, published=_text(45.37))


def seg_s_mask_16() -> Recipe:
    """Seg-S-Mask/16: 45.3 mIoU."""
    return _segmenter("s-16", mask=True, published=readme(27, 45.3, 46.9))


def seg_s_32() -> Recipe:
    """Seg-S/32."""
    return _segmenter("s-32", mask=False)


def seg_s_mask_32() -> Recipe:
    """Seg-S-Mask/32."""
    return _segmenter("s-32", mask=True)


def seg_b_8() -> Recipe:
    """Seg-B/8: 49.54 mIoU."""
    return _segmenter("b-8", mask=False, published=readme(89, 49.54, 50.5, also="; one scale: the paper's text"))


def seg_b_mask_8() -> Recipe:
    """Seg-B-Mask/8."""
    return _segmenter("b-8", mask=True)


def seg_b_16() -> Recipe:
    """Seg-B/16: 48.06 mIoU."""
    return _segmenter("b-16", mask=False, published=_text(48.06))


def seg_b_mask_16() -> Recipe:
    """Seg-B-Mask/16: 48.5 mIoU."""
    return _segmenter("b-16", mask=True, published=readme(106, 48.5, 50.0))


def seg_b_32() -> Recipe:
    """Seg-B/32."""
    return _segmenter("b-32", mask=False)


def seg_b_mask_32() -> Recipe:
    """Seg-B-Mask/32."""
    return _segmenter("b-32", mask=True)


def seg_b_deit_16() -> Recipe:
    """Seg-B†/16 (DeiT, distilled): 47.1 mIoU."""
    return _segmenter("b-deit-16", mask=False, published=readme(87, 47.1, 48.1))


def seg_b_deit_mask_16() -> Recipe:
    """Seg-B†-Mask/16 (DeiT, distilled): 48.7 mIoU."""
    return _segmenter(
        "b-deit-16", mask=True, published=readme(106, 48.7, 50.08, also="; several scales: the paper's text")
    )


def seg_l_16() -> Recipe:
    """Seg-L/16, crops of 640². The paper's 50.71 mIoU seems to be of crops of 512²."""
    return _segmenter("l-16", mask=False)


def seg_l_mask_16() -> Recipe:
    """Seg-L-Mask/16, crops of 640²: 51.8 mIoU."""
    return _segmenter("l-16", mask=True, published=readme(334, 51.8, 53.63, also="; several scales: the paper's text"))


def seg_l_32() -> Recipe:
    """Seg-L/32, crops of 640²."""
    return _segmenter("l-32", mask=False)


def seg_l_mask_32() -> Recipe:
    """Seg-L-Mask/32, crops of 640²."""
    return _segmenter("l-32", mask=True)


RECIPES = (
    swin_t_fpn,
    semask_swin_t_fpn,
    swin_s_fpn,
    semask_swin_s_fpn,
    swin_b_fpn,
    semask_swin_b_fpn,
    swin_l_fpn,
    semask_swin_l_fpn,
    swin_t_seg_mask,
    semask_swin_t_seg_mask,
    seg_t_16,
    seg_t_mask_16,
    seg_s_16,
    seg_s_mask_16,
    seg_s_32,
    seg_s_mask_32,
    seg_b_8,
    seg_b_mask_8,
    seg_b_16,
    seg_b_mask_16,
    seg_b_32,
    seg_b_mask_32,
    seg_b_deit_16,
    seg_b_deit_mask_16,
    seg_l_16,
    seg_l_mask_16,
    seg_l_32,
    seg_l_mask_32,
)
