"""Atrous spatial pyramid pooling: one map seen at several rates of dilation at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.layers.blocks import ConvNormAct
from semask.layers.separable import SeparableConv


class ASPP(nn.Module):
    """The map's mean, a 1×1 convolution and separable 3×3 ones of growing dilation, side by side and fused.

    Source: DeepLabV3 (arXiv:1706.05587) §3.3; separable as in DeepLabV3+ (arXiv:1802.02611) §3.1; the mean comes first
    and the fusion is 3×3 as in mmsegmentation.
    """

    def __init__(self, in_channels: int, channels: int, *, dilations: Sequence[int]) -> None:
        """`dilations` are those of the separable convolutions [cells]."""
        super().__init__()
        self.mean = ConvNormAct(in_channels, channels, kernel_size=1)
        self.point = ConvNormAct(in_channels, channels, kernel_size=1)
        self.atrous = nn.ModuleList(SeparableConv(in_channels, channels, dilation=rate) for rate in dilations)
        self.fuse = ConvNormAct((2 + len(self.atrous)) * channels, channels)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Return the fused map at the same size."""
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[-2], x.shape[-1])
        out: Tensor = self.fuse(torch.cat([mean, self.point(x), *(conv(x) for conv in self.atrous)], dim=1))
        return out
