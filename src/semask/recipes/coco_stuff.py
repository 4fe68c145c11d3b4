"""COCO-Stuff, 171 classes: the 10k images of SeMask's appendix, and all 164k with the official PNG labels.

Source: training numbers of 10k come from the authors' configurations. Their backbone was configured for 150 classes
while labels reach 170; here it has 171. No paper of ours has figures on 164k; its training numbers are those of 10k and
of ADE20K.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.ade20k import OHEM_PIXELS, SCALES
from semask.recipes.recipe import DataRecipe, LossRecipe, Published, Recipe, TrainRecipe
from semask.recipes.segmenter import Schedule, segmenter, segmenter_recipe
from semask.recipes.swin import Variant, semask_swin_fpn, swin_fpn

NUM_CLASSES = 171
DATA_10K = DataRecipe(
    classes="coco-stuff10k",
    images="images/{split}",
    labels="annotations/{split}",
    image_suffix=".jpg",
    label_suffix="_labelTrainIds.png",
    train_split="train2014",
    val_split="test2014",
)
DATA_164K = DataRecipe(
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


def _10k(variant: Variant, global_from: int | None = None) -> Recipe:
    semantic, side = global_from is not None, 640 if variant == "l" else 512
    data = replace(
        DATA_10K,
        base_scale=(4 * side, side),
        scale_choices=SCALES if semantic else None,
        scale_range=None if semantic else (0.5, 2.0),
        crop=(side, side),
        cat_max_ratio=1.0 if semantic else 0.75,
    )
    if global_from is None:
        name, model = f"swin-{variant}-fpn", swin_fpn(variant, NUM_CLASSES)
    else:
        name, model = f"semask-swin-{variant}-fpn", semask_swin_fpn(variant, NUM_CLASSES, global_from=global_from)
    return Recipe(name=f"coco-stuff10k/{name}", model=model, loss=LossRecipe(ohem_pixels=OHEM_PIXELS), data=data)


TRAIN_164K = TrainRecipe(steps=160_000)
RECIPES = (
    _10k("t"),
    _10k("t", global_from=2),
    _10k("s"),
    _10k("s", global_from=2),
    _10k("b"),
    _10k("b", global_from=4),
    _10k("l"),
    _10k("l", global_from=2),
    Recipe(name="coco-stuff164k/swin-t-fpn", model=swin_fpn("t", NUM_CLASSES), data=DATA_164K, train=TRAIN_164K),
    Recipe(
        name="coco-stuff164k/semask-swin-t-fpn",
        model=semask_swin_fpn("t", NUM_CLASSES, global_from=2),
        data=DATA_164K,
        train=TRAIN_164K,
    ),
    segmenter_recipe(
        "coco-stuff164k/seg-s-mask-16",
        segmenter("s-16", NUM_CLASSES, crop=512, mask=True),
        DATA_164K,
        schedule=Schedule(lr=1e-3, batch_size=16, steps_per_epoch=7393, epochs=22, eval_epochs=2, eval_stride=512),
        published=Published(),
    ),
)
