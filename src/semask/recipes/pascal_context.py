"""Pascal Context, 59 classes and the background, which is scored: Segmenter; and the 59 alone, by rows of our own.

Root is the folder VOC2010 of the Pascal development kit, its labels made into images as mmsegmentation does.

Source of every figure: Segmenter (arXiv:2105.05633), its text and its authors' model zoo. Training numbers from the
authors' code.
"""

from __future__ import annotations

import dataclasses

from semask.recipes.recipe import DataRecipe, ModelRecipe, Published, Recipe
from semask.recipes.segmenter import Schedule, Variant, readme, segmenter, segmenter_name, segmenter_recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES, WITHOUT_BACKGROUND = 60, 59
DATA = DataRecipe(
    classes="pascal-context",
    images="JPEGImages",
    labels="SegmentationClassContext",
    image_suffix=".jpg",
    # Not folders but split files, train.txt and val.txt there.
    train_split="ImageSets/SegmentationContext/train",
    val_split="ImageSets/SegmentationContext/val",
    base_scale=(4160, 520),
    scale_range=(0.5, 2.0),
    crop=(480, 480),
)


def _segmenter(variant: Variant, *, mask: bool, published: Published | None = None) -> Recipe:
    return segmenter_recipe(
        f"pascal-context/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=480, mask=mask),
        DATA,
        schedule=Schedule(lr=1e-3, batch_size=16, steps_per_epoch=313, epochs=256, eval_epochs=8, eval_stride=320),
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
    """Seg-L-Mask/16: 58.1 mIoU."""
    return _segmenter("l-16", mask=True, published=readme(334, 58.1, 59.04, also="; several scales: the paper's text"))


def _row59(name: str, model: ModelRecipe) -> Recipe:
    data = dataclasses.replace(DATA, classes="pascal-context-59")
    return Recipe(name=f"pascal-context-59/{name}", model=model, data=data)


def swin_t_fpn_59() -> Recipe:
    """Swin-T FPN; the background is ignored."""
    return _row59("swin-t-fpn", swin_fpn("t", WITHOUT_BACKGROUND))


def semask_swin_t_fpn_59() -> Recipe:
    """SeMask-T FPN; the background is ignored."""
    return _row59("semask-swin-t-fpn", semask_swin_fpn("t", WITHOUT_BACKGROUND, global_from=4))


RECIPES = (seg_b_deit_16, seg_b_deit_mask_16, seg_l_16, seg_l_mask_16, swin_t_fpn_59, semask_swin_t_fpn_59)
