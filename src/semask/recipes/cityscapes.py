"""Cityscapes, 19 classes: the rows of SeMask's Tables 2 and 7, and Segmenter; all semantic attention is windowed.

Sources of the figures: SeMask (arXiv:2112.12782) Tables 2 and 7, and its authors' README for parameters; Segmenter's
model zoo. Training numbers come from the authors' configurations.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.baselines import SGD, baseline, dense, ocrnet
from semask.recipes.mask_classification import GLOBAL_FROM, Backbone, Head, backbone_of, mask_recipe, rows, tenths
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


# SeMask Table 2: Swin and SeMask Swin under Semantic FPN.


def _fpn(name: str, model: ModelRecipe, *figures: float, warmup_ratio: float = 1e-5) -> Recipe:
    parameters, flops, miou, miou_ms = figures
    source = "SeMask Table 2, Cityscapes"
    return Recipe(
        name=f"cityscapes/{name}",
        model=model,
        data=DATA,
        optim=OptimRecipe(lr=1e-3, weight_decay=0.05, warmup_ratio=warmup_ratio),
        train=TrainRecipe(batch_size=8),
        published=Published(parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source=source),
    )


def _semask(variant: str) -> ModelRecipe:
    return semask_swin_fpn(variant, NUM_CLASSES, global_from=4)  # type: ignore[arg-type]


SEMASK = (
    # M parameters, G multiply-adds, mIoU at one scale and at several
    _fpn("swin-t-fpn", swin_fpn("t", NUM_CLASSES), 33, 81, 71.81, 73.74),
    _fpn("semask-swin-t-fpn", _semask("t"), 34, 84, 74.92, 76.56),
    _fpn("swin-s-fpn", swin_fpn("s", NUM_CLASSES), 54, 130, 75.19, 77.68),
    _fpn("semask-swin-s-fpn", _semask("s"), 56, 134, 77.13, 79.14),
    _fpn("swin-b-fpn", swin_fpn("b", NUM_CLASSES), 93, 211, 76.54, 79.05, warmup_ratio=1e-6),
    _fpn("semask-swin-b-fpn", _semask("b"), 96, 217, 77.70, 79.73, warmup_ratio=1e-6),
    _fpn("swin-l-fpn", swin_fpn("l", NUM_CLASSES), 204, 444, 78.03, 79.53),
    _fpn("semask-swin-l-fpn", _semask("l"), 211, 455, 78.53, 80.39),
)


def _seg(variant: Variant, *, mask: bool, layers: int = 2, published: Published | None = None) -> Recipe:
    return segmenter_recipe(
        f"cityscapes/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=768, mask=mask, layers=layers),
        DATA,
        schedule=Schedule(lr=1e-2, batch_size=8, steps_per_epoch=372, epochs=216, eval_epochs=4, eval_stride=512),
        published=published or Published(),
    )


SEGMENTER = (
    _seg("b-deit-16", mask=False),
    _seg("b-deit-16", mask=True),
    _seg("l-16", mask=False),
    # its Mask Transformer has one layer
    _seg("l-16", mask=True, layers=1, published=readme(322, 79.1, 81.3)),
)


# Mask classification: SeMask Table 7, and the rows that ADE20K has. Mask2Former on SeMask Swin-L is the only row that
# SeMask's authors configured: its semantic attention is in windows of 7 throughout, their default, beside Swin's of 12.
# Differs: MaskFormer on Swin has no published configuration here; it takes ADE20K's with the images and steps of
# Cityscapes.

MASK_DATA = replace(
    DATA, scale_range=None, short_edges=tenths(1024), long_edge=4096, crop=(512, 1024), cat_max_ratio=1.0
)
TABLE7 = "SeMask Table 7"
MASK_FIGURES: dict[tuple[Backbone, Head], Published] = {
    ("resnet101", "maskformer"): Published(miou=78.50, miou_ms=80.30, source=TABLE7),
    ("swin-l", "mask2former"): Published(miou=83.30, miou_ms=84.30, source=TABLE7),
    ("semask-swin-l", "mask2former"): Published(
        parameters=222, miou=83.97, miou_ms=84.98, source=f"{TABLE7}; parameters: the authors' README"
    ),
}


def _mask(backbone: Backbone, head: Head) -> Recipe:
    windows = {"global_from": 4, "window": 7} if head == "mask2former" else {"global_from": GLOBAL_FROM[head]}
    return mask_recipe(
        f"cityscapes/{backbone}-{head}",
        backbone_of(backbone, **windows),
        head,
        num_classes=NUM_CLASSES,
        data=MASK_DATA,
        steps=90_000,
        published=MASK_FIGURES.get((backbone, head), Published()),
    )


MASKS = tuple(_mask(backbone, head) for backbone, head in rows())


# The convolutional rows of SeMask Table 7, by mmsegmentation's schedule of 80k steps.


def _baseline(name: str, model: ModelRecipe, miou: float | None, miou_ms: float) -> Recipe:
    return baseline(
        f"cityscapes/{name}",
        model,
        replace(DATA, crop=(512, 1024)),
        optim=SGD,
        steps=80_000,
        batch_size=8,
        published=Published(miou=miou, miou_ms=miou_ms, source="SeMask Table 7, Cityscapes"),
    )


BASELINES = (
    # its window covers halved maps of 49 × 49 cells, images of 769²; of wider ones a part
    _baseline("psanet-r101", dense("r101", "psanet", NUM_CLASSES, window_size=97), 77.94, 79.05),
    _baseline("deeplabv3plus-xception71", dense("xception71", "deeplabv3plus", NUM_CLASSES), None, 79.55),
    _baseline("ccnet-r101", dense("r101", "ccnet", NUM_CLASSES), 80.50, 81.30),
    _baseline("ocrnet-hr48-psa", ocrnet("hr48-psa", NUM_CLASSES), None, 86.95),
)

RECIPES = (*SEMASK, *SEGMENTER, *MASKS, *BASELINES)
