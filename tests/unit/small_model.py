"""A model of a few convolutions with many classes in its answers, and exports of it, which take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

import semask
from semask.data.classes import Classes
from semask.models.model import SegmentationModel
from semask.structures import Features, PixelLogits

NAMES = ("sky", "road", "traffic light", "car", "person")
"""One with a blank."""


class Convolutions(nn.Module):
    channels, strides = (8, 16), (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList((nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 3, stride=2, padding=1)))

    def forward(self, images: Tensor) -> Features:
        maps = []
        for convolution in self.down:
            images = convolution(images).relu()
            maps.append(images)
        return Features(tuple(maps))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(8, len(NAMES), 1)

    def forward(self, features: Features) -> PixelLogits:
        return PixelLogits(self.classify(features.maps[0]))


def small_model() -> SegmentationModel:
    torch.manual_seed(0)
    model = SegmentationModel(Convolutions(), Linear(), num_classes=len(NAMES)).eval()
    nn.init.normal_(model.decoder.classify.weight, std=2.0)
    nn.init.zeros_(model.decoder.classify.bias)
    with torch.no_grad():  # no class is the best everywhere
        model.decoder.classify.bias -= model.decode_main(torch.rand(1, 3, 96, 96)).logits.mean((0, 2, 3))
    model.classes = Classes.from_dict({"classes": [*NAMES]})
    return model


def exported(folder: Path, **options: Any) -> Path:
    """A file of the small model."""
    with pytest.MonkeyPatch.context() as patch:
        # a symbolic size is no int to the checks of shapes
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        return semask.export(small_model(), folder, **options)
