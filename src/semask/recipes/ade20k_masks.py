"""ADE20K, 150 classes, by mask classification: SeMask's Table 6, and the encoders of MaskFormer and Mask2Former.

Source: SeMask Table 6; its authors' README for parameters; Mask2Former's model zoo for smaller encoders. Swin-B and
Swin-L, pretrained at 384 px, crop 640 px; the others crop 512 px (unchecked, as in Mask2Former).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from semask.recipes.ade20k import NUM_CLASSES, ade20k_data
from semask.recipes.mask_classification import GLOBAL_FROM, Backbone, Head, backbone_of, mask_recipe, rows, tenths
from semask.recipes.recipe import DataRecipe, Published, Recipe

STEPS = 160_000
LARGE: tuple[Backbone, ...] = ("swin-b", "swin-l", "semask-swin-l")
SEMASK_MASKFORMER_EDGES = tuple(range(160, 1121, 160))


def _table6(miou: float, miou_ms: float, parameters: float | None = None) -> Published:
    also = "; parameters: the authors' README" if parameters else ""
    return Published(parameters=parameters, miou=miou, miou_ms=miou_ms, source=f"SeMask Table 6{also}")


def _zoo(miou: float, miou_ms: float) -> Published:
    return Published(miou=miou, miou_ms=miou_ms, source="Mask2Former model zoo")


PUBLISHED: dict[tuple[Backbone, Head], Published] = {
    ("resnet50", "mask2former"): _zoo(47.2, 49.2),
    ("swin-t", "mask2former"): _zoo(47.7, 49.6),
    ("swin-s", "mask2former"): _zoo(51.3, 52.4),
    ("swin-b", "mask2former"): _zoo(53.9, 55.1),
    ("swin-l", "maskformer"): _table6(54.10, 55.60),
    ("swin-l", "mask2former"): _table6(56.10, 57.30),
    ("swin-l", "fapn-mask2former"): _table6(56.40, 57.70),
    ("swin-l", "msfapn-mask2former"): _table6(55.99, 57.69),
    ("semask-swin-l", "maskformer"): _table6(54.75, 56.15, 219),
    ("semask-swin-l", "mask2former"): _table6(56.41, 57.52, 222),
    ("semask-swin-l", "fapn-mask2former"): _table6(56.88, 58.25, 227),
    ("semask-swin-l", "msfapn-mask2former"): _table6(57.00, 58.25, 224),
}


def _data(backbone: Backbone, head: Head) -> DataRecipe:
    side = 640 if backbone in LARGE else 512
    authors = (backbone, head) == ("semask-swin-l", "maskformer")
    return replace(
        ade20k_data(side, category_cap=1.0, jitter=False),
        scale_choices=None,
        short_edges=SEMASK_MASKFORMER_EDGES if authors else tenths(side),
        long_edge=4 * side,
        padding=128 / 255,
    )


def _recipe(backbone: Backbone, head: Head) -> Recipe:
    return mask_recipe(
        f"ade20k/{backbone}-{head}",
        backbone_of(backbone, global_from=GLOBAL_FROM[head]),
        head,
        num_classes=NUM_CLASSES,
        data=_data(backbone, head),
        steps=STEPS,
        published=PUBLISHED.get((backbone, head), Published()),
    )


RECIPES = tuple(partial(_recipe, backbone, head) for backbone, head in rows())
