"""PSPNet: pyramid pooling over the last map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.resize import size_of
from semask.structures import Features, PixelLogits

BINS = (1, 2, 3, 6)
"""Sides of the grids in PSPNet and UPerNet."""


class PSPNet(nn.Module):
    """The last map beside its averages over four grids, narrowed and classified.

    Source: PSPNet (arXiv:1612.01105) §3.2; 512 channels as in mmsegmentation.
    """

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.bottleneck = ConvNormAct(self.pooling.out_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        pooled = self.pooling(features.maps[-1])
        return PixelLogits(self.classify(self.dropout(self.bottleneck(pooled))))


class PyramidPooling(nn.Module):
    """The map, and behind it its averages over grids of `bins`² cells, projected and resized.

    In training, the BatchNorm of the grid of one cell needs two images or more.

    Source: PSPNet (arXiv:1612.01105) §3.2; UPerNet (arXiv:1807.10221) §3.1.
    """

    def __init__(self, in_channels: int, channels: int, *, bins: Sequence[int] = BINS) -> None:
        """`channels` is the width of every projection."""
        super().__init__()
        self.bins = tuple(bins)
        self.levels = nn.ModuleList(ConvNormAct(in_channels, channels, kernel_size=1) for _ in self.bins)
        self.out_channels = in_channels + len(self.bins) * channels

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Return the map and its levels, coarsest grid first, in `out_channels` channels."""
        # Never compared with the map's size, as `resize` does: an exported model takes any.
        levels = [
            F.interpolate(level(pool(x, (bins, bins))), size=size_of(x), mode="bilinear", align_corners=False)
            for bins, level in zip(self.bins, self.levels, strict=True)
        ]
        # concatenate the map and its levels
        return torch.cat([x, *levels], dim=1)


def pool(x: Float[Tensor, "b c h w"], bins: tuple[int, int]) -> Float[Tensor, "b c n m"]:
    """Average a map over a grid of n × m cells, which overlap where they do not divide the map.

    The result is that of `adaptive_avg_pool2d`; two products of matrices, unlike it, export with any size.
    """
    rows, columns = (averages(size, count, x) for size, count in zip(size_of(x), bins, strict=True))
    return rows @ x @ columns.T


def averages(size: int, bins: int, like: Tensor) -> Float[Tensor, "n s"]:
    """Return the matrix that averages `size` positions into cells, in `like`'s type and on its device."""
    position = torch.arange(size, device=like.device)
    cell = torch.arange(bins, device=like.device)[:, None]
    # A position and a cell, each scaled by the other's count, are intervals, which overlap or not.
    inside = ((position + 1) * bins > cell * size) & (position * bins < (cell + 1) * size)
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)
