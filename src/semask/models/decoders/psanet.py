"""PSANet: point-wise spatial attention over the last map, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.models.layers.point_wise_spatial import PointWiseSpatialAttention, double
from semask.structures import Features, PixelLogits


class PSANet(nn.Module):
    """Let cells collect from and give to those around them, and fuse what comes of it with the map.

    Source: PSANet (Zhao et al., ECCV 2018) §3.3; the rim of zeros before the projection as in mmsegmentation.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        window_size: int,
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        """`window_size` [cells of the halved map] bounds how far attention reaches: see PointWiseSpatialAttention."""
        super().__init__()
        width = in_channels[-1]
        self.collect = PointWiseSpatialAttention(width, channels, window_size=window_size, direction="collect")
        self.distribute = PointWiseSpatialAttention(width, channels, window_size=window_size, direction="distribute")
        self.project = ConvNormAct(2 * channels, width, kernel_size=1)
        self.bottleneck = ConvNormAct(2 * width, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the last map at its grid; the others are not looked at."""
        last = features.maps[-1]
        mixed = torch.cat([self.collect(last), self.distribute(last)], dim=1)
        mixed = double(self.project(F.pad(mixed, (1, 1, 1, 1))), last)
        fused = self.bottleneck(torch.cat([last, mixed], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))
