"""CCNet: criss-cross attention over the last map, twice."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.decoders.fcn import FCN


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


CCNet = partial(FCN, attention=CrissCrossAttention, recurrence=2)
"""After two steps along rows and columns every cell has received from every other.

Source: CCNet §3.1 and §3.3; 512 channels as in mmsegmentation.
"""
