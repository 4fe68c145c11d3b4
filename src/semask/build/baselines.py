"""From a decoder's recipe to a decoder of the papers' baselines, with an auxiliary head if there is to be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from semask.build.encoder import Encoder
from semask.build.sizes import pyramid, width_of
from semask.models.decoders.ccnet import CCNet
from semask.models.decoders.deeplab import DeepLabV3Plus
from semask.models.decoders.fcn import FCN, FCNHead
from semask.models.decoders.ocr import OCR
from semask.models.decoders.psanet import PSANet
from semask.models.decoders.pspnet import PSPNet
from semask.models.decoders.supervised import Supervised
from semask.models.decoders.upernet import UPerNet
from semask.recipes import DecoderRecipe

BASELINES: dict[str, Callable[..., nn.Module]] = {
    "fcn": FCN,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "upernet": UPerNet,
    "ccnet": CCNet,
    "psanet": PSANet,
    "ocr": OCR,
}
"""Decoders by name."""
WITH_AUXILIARY_HEAD = tuple(name for name in BASELINES if name != "ocr")
"""Those that can have an auxiliary head; OCR's coarse prediction is its own."""
AUXILIARY_LEVEL = 2
"""The map that the auxiliary head reads: the last but one."""
ATROUS_REACH = 96
"""Smallest dilation of DeepLabV3+, in pixels of the image: 6 cells at stride 16, 12 at stride 8."""


def build_baseline(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> nn.Module:
    """Return the decoder of that name, supervised at an earlier map too if the recipe says so."""
    channels = pyramid(encoder, spec)
    main = BASELINES[spec.name](
        channels,
        num_classes=num_classes,
        channels=width_of(spec, encoder),
        dropout=spec.dropout,
        **_own_sizes(spec, encoder),
    )
    if not spec.auxiliary:
        return main
    head = FCNHead(channels[AUXILIARY_LEVEL], num_classes=num_classes, dropout=spec.dropout)
    return Supervised(main, [head], levels=[AUXILIARY_LEVEL])


def _own_sizes(spec: DecoderRecipe, encoder: Encoder) -> dict[str, Any]:
    if spec.name == "deeplabv3plus":
        return {"dilations": [ATROUS_REACH * step // encoder.strides[-1] for step in (1, 2, 3)]}
    return {"window_size": spec.window_size} if spec.name == "psanet" else {}
