"""Pascal Context, 59 classes and the background, which is scored: Segmenter.

Root is the folder VOC2010 of the Pascal development kit, its labels made into images as mmsegmentation does.

Source of every figure: Segmenter (arXiv:2105.05633), its text and its authors' model zoo. Training numbers from the
authors' code.
"""

from __future__ import annotations

from semask.recipes.recipe import DataRecipe, Published, Recipe
from semask.recipes.segmenter import Schedule, Variant, readme, segmenter, segmenter_name, segmenter_recipe

NUM_CLASSES = 60
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


RECIPES = (seg_b_deit_16, seg_b_deit_mask_16, seg_l_16, seg_l_mask_16)
