"""Where a token lies in its map, as a vector of sines and cosines."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 10_000.0


def sine_positions(like: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "1 n d"]:
    """Return the positions of a map's tokens, row by row: half of the channels for y, then half for x.

    Along an axis token i of n lies at 2π(i+1)/(n+10⁻⁶); even channels are sines, odd ones cosines, of wavelengths that
    grow geometrically up to 10000·2π.

    Source: DETR (arXiv:2005.12872), the normalised form, as in MaskFormer and Mask2Former.
    """
    if channels % 4:
        raise ValueError(f"positions need a width divisible by 4 (sine and cosine of y and x), got {channels}")
    half = channels // 2
    steps = torch.arange(half // 2, device=like.device, dtype=torch.float32)
    frequencies = TEMPERATURE ** (-2 * steps / half)
    # 2π(i+1)/(n+10⁻⁶) along each axis
    axes = []
    for size in like.shape[-2:]:
        index = torch.arange(size, device=like.device, dtype=torch.float32) + 1
        angles = (index / (size + 1e-6) * (2 * math.pi))[:, None] * frequencies
        axes.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1))  # n half
    # y and x of every token, row by row
    rows, columns = axes
    grid = (rows[:, None].expand(-1, columns.shape[0], -1), columns[None].expand(rows.shape[0], -1, -1))
    return torch.cat(grid, dim=-1).flatten(0, 1)[None].to(like.dtype)
