"""What a picture goes through on the way to the model and back is undone to the pixel."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.inference import Pipeline, rescaled, sliding, tta
from semask.models.model import SegmentationModel
from semask.structures import Features, PixelLogits

SIZES = [(1, 1), (1, 9), (3, 5), (7, 7), (11, 64), (17, 23), (31, 33), (37, 41), (53, 19), (59, 61)]
SIZES += [(63, 65), (67, 71), (73, 5), (79, 83), (89, 97), (97, 131), (101, 3), (103, 107), (127, 129), (157, 203)]


class Identity(nn.Module):
    """An encoder that shows the decoder its padded images."""

    size_multiple = 32
    strides = (1,)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Features:
        assert all(side % 32 == 0 for side in images.shape[-2:])
        return Features((images,))


class Brightness(nn.Module):
    """Two classes: dark and bright."""

    def forward(self, features: Features) -> PixelLogits:
        bright = features.maps[0].mean(1, keepdim=True)
        return PixelLogits(torch.cat([-bright, bright], dim=1))


def model() -> SegmentationModel:
    return SegmentationModel(Identity(), Brightness(), num_classes=2, mean=(0.5,) * 3, std=(0.5,) * 3)


PREDICTORS: dict[str, Pipeline] = {
    "whole": rescaled(model()),
    "windows": sliding(model(), window=(32, 48), stride=(21, 30), batch_size=3),
    "twice the size": rescaled(model(), ratio=2.0),
    "enlarged for windows": rescaled(sliding(model(), window=(64, 64), stride=(48, 48)), ratio=2.0, enlarge_to=64),
    "several scales, mirrored": tta(
        sliding(model(), window=(64, 64), stride=(48, 48)), ratios=(1.0, 2.0, 3.0), flip=True
    ),
}


@pytest.mark.parametrize("name", list(PREDICTORS))
def test_a_checkerboard_comes_back(name: str) -> None:
    """Fields of one pixel where nothing is made smaller by the way: an offset of half a pixel would lose them."""
    assert len(SIZES) == 20
    for height, width in SIZES:
        board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        image = board.float().expand(1, 3, height, width)
        found = PREDICTORS[name].labels(image)[0]
        assert torch.equal(found.long(), board), (height, width)
