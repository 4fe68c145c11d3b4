"""Atrous spatial pyramid pooling: one map seen at several rates of dilation at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct
from semask.models.layers.separable import SeparableConv


class ASPP(nn.Module):
    """Lay side by side the map's mean, a 1×1 convolution of it and separable 3×3 ones of growing dilation.

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
        """Return all of them, in `out_channels` channels, at the map's size."""
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[-2], x.shape[-1])
        return torch.cat([mean, *(branch(x) for branch in self.branches)], dim=1)
