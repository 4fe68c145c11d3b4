"""Polarised self-attention: one gate per channel and one per cell."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PolarizedSelfAttention(nn.Module):
    """A gate per channel and a gate per cell, side by side, whose results are added: the parallel form.

    A channel's gate comes from features summed over the cells by a softmax, a cell's gate from the product of its
    features with the softmax of the map's mean features. Both work at half the width and end in a sigmoid.

    Source: Polarized Self-Attention (arXiv:2107.00782) §3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=False)
        self.channel_value = nn.Conv2d(channels, half, 1, bias=False)
        self.channel_gate = nn.Conv2d(half, channels, 1, bias=False)
        self.cell_query = nn.Conv2d(channels, half, 1, bias=False)
        self.cell_value = nn.Conv2d(channels, half, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the gated map."""
        # channel-only branch
        share = self.channel_query(x).flatten(2).softmax(-1)  # b 1 n
        summed = self.channel_value(x).flatten(2) @ share.transpose(1, 2)  # b c/2 1
        channels = torch.sigmoid(self.channel_gate(summed[..., None]))
        # spatial-only branch
        mean = self.cell_query(x).mean((2, 3)).softmax(-1)  # b c/2
        cells = torch.sigmoid(torch.einsum("bc,bchw->bhw", mean, self.cell_value(x)))[:, None]
        return x * channels + x * cells
