"""Criss-cross attention: every cell looks at its row and its column."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CrissCrossAttention(nn.Module):
    """Attend, in one softmax without scale, over a cell's row and the rest of its column; λ (`gain`) weighs the result.

    Queries and keys are an eighth as wide as the map.

    Source: CCNet (arXiv:1811.11721) §3.2; the cell itself is there once, as in the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 8)
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the map with what was attended to added."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        height = x.shape[-2]
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        column = torch.einsum("bchw,bcgw->bhwg", query, key).masked_fill(itself, -torch.inf)
        row = torch.einsum("bchw,bchv->bhwv", query, key)
        share = torch.cat([column, row], dim=-1).softmax(-1)
        attended = torch.einsum("bhwg,bcgw->bchw", share[..., :height], value)
        attended = attended + torch.einsum("bhwv,bchv->bchw", share[..., height:], value)
        return x + self.gain * attended
