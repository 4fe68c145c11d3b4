"""COCO-Stuff of all 164,000 pictures, 171 classes; labels are the official PNG files of things and stuff.

No paper of ours has figures on it; training numbers are those of COCO-Stuff-10k's rows and of ADE20K's.
"""

from __future__ import annotations

from semask.recipes.coco_stuff10k import NUM_CLASSES
from semask.recipes.recipe import DataRecipe, ModelRecipe, Published, Recipe, TrainRecipe
from semask.recipes.segmenter import Schedule, segmenter, segmenter_recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

DATA = DataRecipe(
    classes="coco-stuff164k",
    images="images/{split}",
    labels="annotations/{split}",
    image_suffix=".jpg",
    train_split="train2017",
    val_split="val2017",
    base_scale=(2048, 512),
    scale_range=(0.5, 2.0),
    crop=(512, 512),
)


def _row(name: str, model: ModelRecipe) -> Recipe:
    return Recipe(name=f"coco-stuff164k/{name}", model=model, data=DATA, train=TrainRecipe(steps=160_000))


def swin_t_fpn() -> Recipe:
    """Swin-T FPN."""
    return _row("swin-t-fpn", swin_fpn("t", NUM_CLASSES))


def semask_swin_t_fpn() -> Recipe:
    """SeMask-T FPN."""
    return _row("semask-swin-t-fpn", semask_swin_fpn("t", NUM_CLASSES, global_from=2))


def seg_s_mask_16() -> Recipe:
    """Seg-S-Mask/16."""
    return segmenter_recipe(
        "coco-stuff164k/seg-s-mask-16",
        segmenter("s-16", NUM_CLASSES, crop=512, mask=True),
        DATA,
        schedule=Schedule(lr=1e-3, batch_size=16, steps_per_epoch=7393, epochs=22, eval_epochs=2, eval_stride=512),
        published=Published(),
    )


RECIPES = (swin_t_fpn, semask_swin_t_fpn, seg_s_mask_16)
