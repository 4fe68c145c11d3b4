"""CCNet: criss-cross attention over the last map, twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.models.layers.criss_cross import CrissCrossAttention
from semask.structures import Features, PixelLogits

RECURRENCE = 2
"""After two steps along rows and columns every cell has seen every other."""


class CCNet(nn.Module):
    """Attend along rows and columns, twice with the same weights, between two convolutions; fuse with the map.

    Source: CCNet (arXiv:1811.11721) §3.1 and §3.3; 512 channels as in mmsegmentation.
    """

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNormAct(in_channels[-1], channels), ConvNormAct(channels, channels)])
        self.attention = CrissCrossAttention(channels)
        self.fuse = ConvNormAct(in_channels[-1] + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the last map at its grid; the others are not looked at."""
        last = features.maps[-1]
        x = self.convs[0](last)
        for _ in range(RECURRENCE):
            x = self.attention(x)
        fused = self.fuse(torch.cat([last, self.convs[1](x)], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))
