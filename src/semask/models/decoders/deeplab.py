"""DeepLabV3+: atrous pooling over the last map, refined at the grid of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from semask.models.layers.aspp import ASPP
from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.models.layers.separable import SeparableConv
from semask.ops.resize import resize
from semask.structures import Features, PixelLogits

FINE_CHANNELS = 48
"""Width that the first map is narrowed to."""


class DeepLabV3Plus(nn.Module):
    """See the last map at several rates of dilation, bring it to the first map's grid, and refine it with that map.

    Source: DeepLabV3+ (arXiv:1802.02611) §3.1; 512 channels as in mmsegmentation.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        dilations: Sequence[int],
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        """`dilations` [cells of the last map] are 6, 12, 18 at stride 16 and 12, 24, 36 at stride 8."""
        super().__init__()
        self.aspp = ASPP(in_channels[-1], channels, dilations=dilations)
        self.bottleneck = ConvNormAct(self.aspp.out_channels, channels)
        self.narrow = ConvNormAct(in_channels[0], FINE_CHANNELS, kernel_size=1)
        self.refine = nn.Sequential(
            SeparableConv(channels + FINE_CHANNELS, channels), SeparableConv(channels, channels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the first and the last map at the first one's grid."""
        fine = self.narrow(features.maps[0])
        coarse = resize(self.bottleneck(self.aspp(features.maps[-1])), (fine.shape[-2], fine.shape[-1]))
        return PixelLogits(self.classify(self.dropout(self.refine(torch.cat([coarse, fine], dim=1)))))
