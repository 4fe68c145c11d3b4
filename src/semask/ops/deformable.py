"""Deformable attention: weighted sums of a few bilinear samples from the maps of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.ops.bilinear import pixel_centres
from semask.ops.reference import is_reference

Size = tuple[int, int]


class Grid(NamedTuple):
    """The maps of a pyramid as one row of tokens: each map row by row, one map after the other.

    sizes: (height, width) of every map. extents: the same as (width, height). firsts: the index of its first token.
    references: where every token lies in its map, (x, y) in [0, 1].
    """

    sizes: tuple[Size, ...]
    extents: Integer[Tensor, "l 2"]
    firsts: Integer[Tensor, " l"]
    references: Float[Tensor, "n 2"]


def grid_of(sizes: Sequence[Size], *, device: torch.device) -> Grid:
    """Return the grid of maps of `sizes` (height, width)."""
    widths, heights = [size[1] for size in sizes], [size[0] for size in sizes]
    firsts = [sum(math.prod(size) for size in sizes[:level]) for level in range(len(sizes))]
    # Filled in on the device: a copy from the CPU would wait for it. int32 is faster to sort in the backward pass.
    numbers = partial(torch.full, (), dtype=torch.int32, device=device)
    across, down, first = (torch.stack([numbers(value) for value in values]) for values in (widths, heights, firsts))
    centres = torch.cat([pixel_centres(*size, device=device) for size in sizes])
    return Grid(tuple(sizes), torch.stack((across, down), dim=1), first, centres)


def deformable_attention(
    values: Float[Tensor, "b n heads d"],
    grid: Grid,
    locations: Float[Tensor, "b q heads l p 2"],
    weights: Float[Tensor, "b q heads l p"],
) -> Float[Tensor, "b q heads*d"]:
    """Return, for every query and head, the weighted sum of the values at its points.

    `values` holds the tokens of the grid's maps. Locations are (x, y) in [0, 1] across each map; values between tokens
    are bilinear, and beyond a map they are 0.

    The four taps of every point are rows of one table, so that the whole sum is a single weighted bag of rows: memory
    never holds n·points·channels.

    Source: Deformable DETR (arXiv:2010.04159) eq. 3; `grid_sample` with aligned corners off gives the same.
    """
    # no runtime of exported files has weighted bags
    if is_reference() or torch.compiler.is_exporting():
        return _by_grid_sample(values, grid, locations, weights)
    batch, tokens, heads, width = values.shape
    precision = torch.promote_types(values.dtype, torch.float32)
    widths, heights = grid.extents[:, :, None].unbind(1)
    across = _taps(locations[..., 0].to(precision), widths)
    down = _taps(locations[..., 1].to(precision), heights)
    # Rows of the table are ordered by image, token and head.
    head = torch.arange(heads, device=values.device, dtype=widths.dtype)[:, None, None]
    image = torch.arange(batch, device=values.device, dtype=widths.dtype)[:, None, None, None, None]
    rows = [
        ((image * tokens + grid.firsts[:, None] + row * widths) * heads + head, weights.to(precision) * share)
        for row, share in down
    ]
    # One bag per query and head, of corners · levels · points.
    bags = torch.cat([(row + column * heads).flatten(3) for row, _ in rows for column, _ in across], dim=-1)
    parts = torch.cat([(weight * share).flatten(3) for _, weight in rows for _, share in across], dim=-1)
    # every token and head is a row
    table = values.to(precision).reshape(-1, width)
    mixed = F.embedding_bag(bags.flatten(0, 2), table, per_sample_weights=parts.flatten(0, 2), mode="sum")
    return mixed.reshape(batch, -1, heads * width).to(values.dtype)


def _by_grid_sample(values: Tensor, grid: Grid, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample every map at its points: the reference form."""
    points = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # b·heads q l p 2, from −1 to 1
    tokens = values.permute(0, 2, 3, 1).flatten(0, 1)  # b·heads d n
    maps = tokens.split([math.prod(size) for size in grid.sizes], dim=-1)
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]  # b·heads 1 q l p
    mixed = values.new_zeros(())
    # level by level, since to join the samples would copy them
    for number, (level, size) in enumerate(zip(maps, grid.sizes, strict=True)):
        sampled = F.grid_sample(level.unflatten(-1, size), points[:, :, number], align_corners=False)
        mixed = mixed + (sampled * shares[..., number, :]).sum(-1)
    return mixed.unflatten(0, (values.shape[0], -1)).flatten(1, 2).transpose(1, 2)


def _taps(
    location: Float[Tensor, "b q heads l p"], size: Integer[Tensor, "l 1"]
) -> list[tuple[Integer[Tensor, "b q heads l p"], Float[Tensor, "b q heads l p"]]]:
    """Return both taps along an axis with their weights; a tap beyond the map weighs 0 and is moved into it."""
    position = location * size - 0.5
    low = position.detach().floor()
    past = position - low
    # Clamped as integers, so that the NaN of a diverging model gives NaN and no row outside of the table.
    taps = [(low.int(), 1 - past), (low.int() + 1, past)]
    inside = [tap.clamp(min=0).minimum(size - 1) for tap, _ in taps]
    return [(index, share * (index == tap)) for index, (tap, share) in zip(inside, taps, strict=True)]
