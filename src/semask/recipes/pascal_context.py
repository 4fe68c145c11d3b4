"""Pascal Context, 59 classes and the background, which is scored: Segmenter; and the 59 alone, by rows of our own.

Root is the folder VOC2010 of the Pascal development kit, its labels made into images as mmsegmentation does.

Sources of the figures: Segmenter (arXiv:2105.05633), its text and its authors' model zoo. Training numbers come from
the authors' code.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.recipe import DataRecipe, Published, Recipe
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
DATA_59 = replace(DATA, classes="pascal-context-59")


def _seg(variant: Variant, *, mask: bool, published: Published | None = None) -> Recipe:
    return segmenter_recipe(
        f"pascal-context/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=480, mask=mask),
        DATA,
        schedule=Schedule(lr=1e-3, batch_size=16, steps_per_epoch=313, epochs=256, eval_epochs=8, eval_stride=320),
        published=published or Published(),
    )


RECIPES = (
    _seg("b-deit-16", mask=False),
    _seg("b-deit-16", mask=True),
    _seg("l-16", mask=False),
    _seg("l-16", mask=True, published=readme(334, 58.1, 59.04, also="; several scales: the paper's text")),
    Recipe(name="pascal-context-59/swin-t-fpn", model=swin_fpn("t", WITHOUT_BACKGROUND), data=DATA_59),
    Recipe(
        name="pascal-context-59/semask-swin-t-fpn",
        model=semask_swin_fpn("t", WITHOUT_BACKGROUND, global_from=4),
        data=DATA_59,
    ),
)
