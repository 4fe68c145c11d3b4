"""ADE20K, 150 classes: what the papers compare with, apart from SETR and SegFormer.

Source of every figure: SeMask (arXiv:2112.12782) Table 6, of which parameters and multiply-adds are mmsegmentation's;
Segmenter (arXiv:2105.05633), its text.
"""

from __future__ import annotations

from semask.recipes.ade20k import NUM_CLASSES, ade20k_data
from semask.recipes.baselines import (
    ADAMW,
    BACKBONES,
    SGD,
    Schedule,
    baseline,
    dense,
    ocrnet,
    panoptic_fpn,
    upernet,
    upernet_swin,
)
from semask.recipes.recipe import ModelRecipe, OptimRecipe, Published, Recipe

SCHEDULE = Schedule(steps=160_000, batch_size=16)


def _row(
    name: str,
    model: ModelRecipe,
    *,
    optim: OptimRecipe = SGD,
    side: int = 512,
    published: Published | None = None,
) -> Recipe:
    data = ade20k_data(side, category_cap=0.75, jitter=True)
    return baseline(f"ade20k/{name}", model, data, optim=optim, schedule=SCHEDULE, published=published or Published())


def _table6(
    miou: float | None, miou_ms: float, *, parameters: float | None = None, flops: float | None = None
) -> Published:
    source = "SeMask Table 6" + ("; costs: mmsegmentation" if flops is not None else "")
    return Published(parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source=source)


def fcn_r101() -> Recipe:
    """FCN, ResNet-101c at stride 8: 39.91 mIoU."""
    published = _table6(39.91, 41.40, parameters=68.6, flops=275.7)
    return _row("fcn-r101", dense("r101", "fcn", NUM_CLASSES), published=published)


def pspnet_r101() -> Recipe:
    """PSPNet, ResNet-101c at stride 8: 44.39 mIoU."""
    published = _table6(44.39, 45.35, parameters=68.1, flops=256.4)
    return _row("pspnet-r101", dense("r101", "pspnet", NUM_CLASSES), published=published)


def deeplabv3plus_r101() -> Recipe:
    """DeepLabV3+, ResNet-101c at stride 8: 45.47 mIoU."""
    published = _table6(45.47, 46.35, parameters=62.7, flops=255.1)
    return _row("deeplabv3plus-r101", dense("r101", "deeplabv3plus", NUM_CLASSES), published=published)


def deeplabv3plus_resnest101() -> Recipe:
    """DeepLabV3+, ResNeSt-101 at stride 8, which Segmenter's text compares with."""
    return _row("deeplabv3plus-resnest101", dense("resnest101", "deeplabv3plus", NUM_CLASSES))


def deeplabv3plus_resnest200() -> Recipe:
    """DeepLabV3+, ResNeSt-200 at stride 8: 48.36 mIoU at several scales."""
    published = Published(miou_ms=48.36, source="Segmenter, the paper's text: 53.63 - 5.27")
    return _row("deeplabv3plus-resnest200", dense("resnest200", "deeplabv3plus", NUM_CLASSES), published=published)


def ccnet_r101() -> Recipe:
    """CCNet, ResNet-101c at stride 8."""
    return _row("ccnet-r101", dense("r101", "ccnet", NUM_CLASSES))


def psanet_r101() -> Recipe:
    """PSANet, ResNet-101c at stride 8; its window covers halved maps of 33 × 33 cells, images of 512²."""
    return _row("psanet-r101", dense("r101", "psanet", NUM_CLASSES))


def ocrnet_hr48() -> Recipe:
    """OCR, HRNetV2-W48."""
    return _row("ocrnet-hr48", ocrnet("hr48", NUM_CLASSES))


def semfpn_r50() -> Recipe:
    """Semantic FPN with its neck, ResNet-50c."""
    return _row("semfpn-r50", panoptic_fpn("r50", NUM_CLASSES))


def upernet_swin_t() -> Recipe:
    """UPerNet, Swin-T."""
    return _row("upernet-swin-t", upernet_swin("t", NUM_CLASSES), optim=ADAMW)


def upernet_swin_s() -> Recipe:
    """UPerNet, Swin-S."""
    return _row("upernet-swin-s", upernet_swin("s", NUM_CLASSES), optim=ADAMW)


def upernet_swin_b() -> Recipe:
    """UPerNet, Swin-B, ImageNet-22k."""
    return _row("upernet-swin-b", upernet_swin("b", NUM_CLASSES), optim=ADAMW)


def upernet_swin_l() -> Recipe:
    """UPerNet, Swin-L, ImageNet-22k, crops of 640²: 53.50 mIoU at several scales."""
    model = upernet_swin("l", NUM_CLASSES)
    return _row("upernet-swin-l", model, optim=ADAMW, side=640, published=_table6(None, 53.50))


def upernet_swinv2_l() -> Recipe:
    """UPerNet, SwinV2-L, ImageNet-22k, crops of 640²: 55.90 mIoU at several scales."""
    model = upernet(BACKBONES["swinv2-l"], NUM_CLASSES)
    return _row("upernet-swinv2-l", model, optim=ADAMW, side=640, published=_table6(None, 55.90))


RECIPES = (
    fcn_r101,
    pspnet_r101,
    deeplabv3plus_r101,
    ccnet_r101,
    psanet_r101,
    deeplabv3plus_resnest101,
    deeplabv3plus_resnest200,
    ocrnet_hr48,
    semfpn_r50,
    upernet_swin_t,
    upernet_swin_s,
    upernet_swin_b,
    upernet_swin_l,
    upernet_swinv2_l,
)
