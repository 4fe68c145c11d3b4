"""MaskFormer's pixel decoder: a feature pyramid, from the coarsest map down."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvGroupNorm, caffe2_xavier
from semask.structures import Features, PixelFeatures


class Level(nn.Module):
    """A lateral projection of a finer map plus the coarser map, smoothed.

    Source: Feature Pyramid Networks (arXiv:1612.03144) §3; norms and activations as in MaskFormer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = ConvGroupNorm(channels, width, kernel_size=1, relu=False)
        self.output = ConvGroupNorm(width, width, kernel_size=3, relu=True)

    def forward(self, fine: Float[Tensor, "b i h w"], coarse: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.output(self.lateral(fine) + coarse)


class FPN(nn.Module):
    """A smoothed coarsest map and three levels built on each other; the finest embeds the pixels.

    With aligned levels this is FaPN's pixel decoder (see `pixel_decoders/fapn.py`).

    Source: MaskFormer (arXiv:2107.06278) §3.3: 256 channels, nearest-neighbour up-sampling.
    """

    def __init__(self, channels: Sequence[int], levels: Sequence[nn.Module], *, width: int = 256) -> None:
        """`channels` are the encoder's and `levels` one module for each of its maps but the last, fine to coarse."""
        super().__init__()
        self.top = ConvGroupNorm(channels[-1], width, kernel_size=3, relu=True)
        self.levels = nn.ModuleList(levels)
        self.mask_features = caffe2_xavier(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, features: Features) -> PixelFeatures:
        maps = [self.top(features.maps[-1])]
        # top-down pathway
        for level, fine in zip(reversed(self.levels), reversed(features.maps[:-1]), strict=True):
            coarse = F.interpolate(maps[-1], size=fine.shape[-2:], mode="nearest")
            maps.append(level(fine, coarse))
        return PixelFeatures(self.mask_features(maps[-1]), tuple(maps[:-1]))
