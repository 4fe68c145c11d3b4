"""CCNet: criss-cross attention over the last map, twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.structures import Features, PixelLogits

RECURRENCE = 2
"""After two steps along rows and columns every cell has received from every other."""


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
        last = features.maps[-1]
        x = self.convs[0](last)
        # recurrent criss-cross attention
        for _ in range(RECURRENCE):
            x = self.attention(x)
        # fuse with the encoder's map
        fused = self.fuse(torch.cat([last, self.convs[1](x)], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))


class CrissCrossAttention(nn.Module):
    """One softmax without scale over a cell's row and the rest of its column; λ (`gain`) weighs the result.

    Queries and keys are an eighth as wide as the map.

    Source: CCNet (arXiv:1811.11721) §3.2; the cell itself takes part once, as in the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 8)
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = self.query(x), self.key(x), self.value(x)
        height = x.shape[-2]
        # affinity with the column, without the cell itself, and with the row
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        column = torch.einsum("bchw,bcgw->bhwg", query, key).masked_fill(itself, -torch.inf)
        row = torch.einsum("bchw,bchv->bhwv", query, key)
        share = torch.cat([column, row], dim=-1).softmax(-1)
        # aggregation
        attended = torch.einsum("bhwg,bcgw->bchw", share[..., :height], value)
        attended = attended + torch.einsum("bhwv,bchv->bchw", share[..., height:], value)
        return x + self.gain * attended
