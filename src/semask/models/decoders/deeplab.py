"""DeepLabV3+: atrous spatial pyramid pooling over the last map, refined at the grid of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, SeparableConv, pixel_classifier
from semask.ops.resize import resize, size_of
from semask.structures import Features, PixelLogits

FINE_CHANNELS = 48
"""Width that the first map is reduced to."""


class DeepLabV3Plus(nn.Module):
    """Pool the last map at several rates, bring it to the first map's grid, and refine it with that map.

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
        # low-level features
        fine = self.narrow(features.maps[0])
        # ASPP, upsampled
        coarse = resize(self.bottleneck(self.aspp(features.maps[-1])), size_of(fine))
        # concatenate and refine
        refined = self.refine(torch.cat([coarse, fine], dim=1))
        return PixelLogits(self.classify(self.dropout(refined)))


class ASPP(nn.Module):
    """The map's mean, a 1×1 convolution of it and separable 3×3 ones of growing dilation, side by side.

    In training, the BatchNorm of the mean needs two images or more.

    Source: DeepLabV3 (arXiv:1706.05587) §3.3; separable as in DeepLabV3+ (arXiv:1802.02611) §3.1; the mean comes first
    as in mmsegmentation.
    """

    def __init__(self, in_channels: int, channels: int, *, dilations: Sequence[int]) -> None:
        """`dilations` are those of the separable convolutions [cells]."""
        super().__init__()
        self.mean = ConvNormAct(in_channels, channels, kernel_size=1)
        atrous = [SeparableConv(in_channels, channels, dilation=rate) for rate in dilations]
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels, kernel_size=1), *atrous])
        self.out_channels = (1 + len(self.branches)) * channels

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, *size_of(x))
        return torch.cat([mean, *(branch(x) for branch in self.branches)], dim=1)
