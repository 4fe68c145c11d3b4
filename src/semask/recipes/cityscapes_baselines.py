"""Cityscapes, 19 classes: the convolutional rows of SeMask's Table 7, by mmsegmentation's schedule of 80 k steps.

Source of every figure: SeMask (arXiv:2112.12782) Table 7.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes.baselines import SGD, Schedule, baseline, dense, ocrnet
from semask.recipes.cityscapes import DATA, NUM_CLASSES
from semask.recipes.recipe import ModelRecipe, Published, Recipe

CROP = (512, 1024)
"""(height, width) [px]."""
SCHEDULE = Schedule(steps=80_000, batch_size=8)
PSA_WINDOW = 97
"""PSANet's window [cells]: it covers halved maps of 49 × 49, of images of 769²; wider ones it covers in part."""


def _row(name: str, model: ModelRecipe, *, miou: float | None, miou_ms: float) -> Recipe:
    return baseline(
        f"cityscapes/{name}",
        model,
        replace(DATA, crop=CROP),
        optim=SGD,
        schedule=SCHEDULE,
        published=Published(miou=miou, miou_ms=miou_ms, source="SeMask Table 7, Cityscapes"),
    )


def psanet_r101() -> Recipe:
    """PSANet, ResNet-101c at stride 8: 77.94 mIoU."""
    model = dense("r101", "psanet", NUM_CLASSES, window_size=PSA_WINDOW)
    return _row("psanet-r101", model, miou=77.94, miou_ms=79.05)


def deeplabv3plus_xception71() -> Recipe:
    """DeepLabV3+, Xception-71 at stride 16: 79.55 mIoU at several scales."""
    model = dense("xception71", "deeplabv3plus", NUM_CLASSES)
    return _row("deeplabv3plus-xception71", model, miou=None, miou_ms=79.55)


def ccnet_r101() -> Recipe:
    """CCNet, ResNet-101c at stride 8: 80.50 mIoU."""
    return _row("ccnet-r101", dense("r101", "ccnet", NUM_CLASSES), miou=80.50, miou_ms=81.30)


def ocrnet_hr48_psa() -> Recipe:
    """OCR, HRNetV2-W48 with polarised self-attention: 86.95 mIoU at several scales."""
    return _row("ocrnet-hr48-psa", ocrnet("hr48-psa", NUM_CLASSES), miou=None, miou_ms=86.95)


RECIPES = (psanet_r101, deeplabv3plus_xception71, ccnet_r101, ocrnet_hr48_psa)
