"""Cityscapes, 19 classes, by mask classification: SeMask's Table 7, and the rows that ADE20K has.

Source: SeMask Table 7; its authors' README for parameters. Mask2Former on SeMask Swin-L is the only row that SeMask's
authors configured: its semantic attention is in windows of 7 throughout, their default, beside Swin's of 12.

Differs: MaskFormer on Swin has no published configuration here; it takes that of ADE20K with the pictures and steps of
Cityscapes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from semask.recipes.cityscapes import DATA, NUM_CLASSES
from semask.recipes.mask_classification import GLOBAL_FROM, Backbone, Head, backbone_of, mask_recipe, rows, tenths
from semask.recipes.recipe import EncoderRecipe, Published, Recipe

STEPS = 90_000
MASK_DATA = replace(
    DATA, scale_range=None, short_edges=tenths(1024), long_edge=4096, crop=(512, 1024), category_cap=1.0
)
PUBLISHED: dict[tuple[Backbone, Head], Published] = {
    ("resnet101", "maskformer"): Published(miou=78.50, miou_ms=80.30, source="SeMask Table 7"),
    ("swin-l", "mask2former"): Published(miou=83.30, miou_ms=84.30, source="SeMask Table 7"),
    ("semask-swin-l", "mask2former"): Published(
        parameters=222, miou=83.97, miou_ms=84.98, source="SeMask Table 7; parameters: the authors' README"
    ),
}


def _encoder(backbone: Backbone, head: Head) -> EncoderRecipe:
    if head == "mask2former":
        return backbone_of(backbone, global_from=4, window=7)
    return backbone_of(backbone, global_from=GLOBAL_FROM[head])


def _recipe(backbone: Backbone, head: Head) -> Recipe:
    return mask_recipe(
        f"cityscapes/{backbone}-{head}",
        _encoder(backbone, head),
        head,
        num_classes=NUM_CLASSES,
        data=MASK_DATA,
        steps=STEPS,
        published=PUBLISHED.get((backbone, head), Published()),
    )


RECIPES = tuple(partial(_recipe, backbone, head) for backbone, head in rows())
