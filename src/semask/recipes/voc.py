"""Pascal VOC 2012, 21 classes with the background. Root is the folder VOC2012 of the development kit.

No paper of ours has figures on it; training numbers are those of ADE20K's rows. With the labels of SBD, which
`semask prepare voc-aug` adds, train by `--data.train-split ImageSets/Segmentation/trainaug`.
"""

from __future__ import annotations

from semask.recipes.recipe import DataRecipe, Published, Recipe, TrainRecipe
from semask.recipes.segmenter import Schedule, segmenter, segmenter_recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 21
DATA = DataRecipe(
    classes="voc",
    images="JPEGImages",
    labels="SegmentationClass",
    image_suffix=".jpg",
    train_split="ImageSets/Segmentation/train",
    val_split="ImageSets/Segmentation/val",
    base_scale=(2048, 512),
    scale_range=(0.5, 2.0),
    crop=(512, 512),
)
TRAIN = TrainRecipe(steps=40_000, eval_every=4000)
RECIPES = (
    Recipe(name="voc/swin-t-fpn", model=swin_fpn("t", NUM_CLASSES), data=DATA, train=TRAIN),
    Recipe(
        name="voc/semask-swin-t-fpn", model=semask_swin_fpn("t", NUM_CLASSES, global_from=4), data=DATA, train=TRAIN
    ),
    segmenter_recipe(
        "voc/seg-s-mask-16",
        segmenter("s-16", NUM_CLASSES, crop=512, mask=True),
        DATA,
        schedule=Schedule(lr=1e-3, batch_size=16, steps_per_epoch=92, epochs=435, eval_epochs=44, eval_stride=512),
        published=Published(),
    ),
)
