"""Attention to a few points of a pyramid, whose places depend on the query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from semask.models.layers.attention import check_heads
from semask.ops.bilinear import centres
from semask.ops.reference import is_plain

Size = tuple[int, int]


class Grid(NamedTuple):
    """The maps of a pyramid as one row of tokens: each map row by row, one map after the other.

    sizes: (height, width) of every map. extents: the same as (width, height). firsts: the number of its first token.
    references: where every token lies in its map, (x, y) in [0, 1].
    """

    sizes: tuple[Size, ...]
    extents: Integer[Tensor, "l 2"]
    firsts: Integer[Tensor, " l"]
    references: Float[Tensor, "n 2"]


def grid_of(sizes: Sequence[Size], *, device: torch.device) -> Grid:
    """Return the grid of maps of `sizes` (height, width)."""
    firsts = [sum(math.prod(size) for size in sizes[:level]) for level in range(len(sizes))]
    widths, heights = (_numbers([size[axis] for size in sizes], device) for axis in (1, 0))
    return Grid(
        tuple(sizes),
        torch.stack((widths, heights), dim=1),
        _numbers(firsts, device),
        torch.cat([centres(*size, device=device) for size in sizes]),
    )


def _numbers(values: Sequence[int], device: torch.device) -> Integer[Tensor, " l"]:
    """Return numbers as a tensor, filled in on the device: a copy of the processor's would wait for it.

    They take half the memory of int64, and are faster to sort in the backward pass.
    """
    return torch.stack([torch.full((), value, dtype=torch.int32, device=device) for value in values])


def deformable_attention(
    values: Float[Tensor, "b n heads d"],
    grid: Grid,
    locations: Float[Tensor, "b q heads l p 2"],
    weights: Float[Tensor, "b q heads l p"],
) -> Float[Tensor, "b q heads*d"]:
    """Return, for every query and head, the weighted sum of the values at its points.

    `values` holds the tokens of the grid's maps. Locations are (x, y) in [0, 1] across each map; values between tokens
    are bilinear, and beyond a map they are 0.

    The four neighbours of every point are rows of one table, so that the whole sum is a single weighted bag of rows:
    nothing of n·points·channels is ever in memory.

    Source: Deformable DETR (arXiv:2010.04159) eq. 3; `grid_sample` with aligned corners off gives the same.
    """
    if is_plain():
        return _sampled(values, grid, locations, weights)
    batch, tokens, heads, width = values.shape
    precision = torch.promote_types(values.dtype, torch.float32)
    widths, heights = grid.extents[:, :, None].unbind(1)
    across = _around(locations[..., 0].to(precision), widths)
    down = _around(locations[..., 1].to(precision), heights)
    head = torch.arange(heads, device=values.device, dtype=widths.dtype)[:, None, None]
    owner = torch.arange(batch, device=values.device, dtype=widths.dtype)[:, None, None, None, None]
    rows = [
        ((owner * tokens + grid.firsts[:, None] + row * widths) * heads + head, weights.to(precision) * share)
        for row, share in down
    ]
    # One bag per query and head, of corners · levels · points.
    bags = torch.cat([(row + column * heads).flatten(3) for row, _ in rows for column, _ in across], dim=-1)
    parts = torch.cat([(weight * share).flatten(3) for _, weight in rows for _, share in across], dim=-1)
    table = values.to(precision).reshape(-1, width)
    mixed = F.embedding_bag(bags.flatten(0, 2), table, per_sample_weights=parts.flatten(0, 2), mode="sum")
    return mixed.reshape(batch, -1, heads * width).to(values.dtype)


def _sampled(values: Tensor, grid: Grid, locations: Tensor, weights: Tensor) -> Tensor:
    """Return the same by sampling every map at its points: the plain formulation."""
    places = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # b·heads q l p 2, from −1 to 1
    tokens = values.permute(0, 2, 3, 1).flatten(0, 1)  # b·heads d n
    maps = tokens.split([math.prod(size) for size in grid.sizes], dim=-1)
    sampled = [
        F.grid_sample(level.unflatten(-1, size), places[:, :, number], align_corners=False)
        for number, (level, size) in enumerate(zip(maps, grid.sizes, strict=True))
    ]
    shares = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]  # b·heads 1 q l·p
    mixed = (torch.cat(sampled, dim=-1) * shares).sum(-1)
    out: Tensor = mixed.unflatten(0, (len(values), -1)).flatten(1, 2).transpose(1, 2)
    return out


def _around(
    location: Float[Tensor, "b q heads l p"], size: Integer[Tensor, "l 1"]
) -> list[tuple[Integer[Tensor, "b q heads l p"], Float[Tensor, "b q heads l p"]]]:
    """Return both neighbours along an axis, with their shares; one beyond the map has none and is moved into it."""
    place = location * size - 0.5
    low = place.detach().floor()
    past = place - low
    # Clamped as integers, so that a diverging model's NaN gives NaN and no place outside of the table.
    sides = [(low.int(), 1 - past), (low.int() + 1, past)]
    moved = [side.clamp(min=0).minimum(size - 1) for side, _ in sides]
    return [(inside, share * (inside == side)) for inside, (side, share) in zip(moved, sides, strict=True)]


class DeformableAttention(nn.Module):
    """Every token of a pyramid attends to a few points around it, on all levels.

    Offsets are linear in the token, in tokens of the level they point to, and start as a star: head k looks in
    direction k of the circle, point i at distance i. Weights are a softmax over levels and points.

    Source: Deformable DETR (arXiv:2010.04159) §4.1; Mask2Former: 8 heads, 3 levels, 4 points.
    """

    def __init__(self, width: int, *, num_heads: int = 8, num_levels: int = 3, num_points: int = 4) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.layout = (num_heads, num_levels, num_points)
        self.offsets = nn.Linear(width, 2 * math.prod(self.layout))
        self.weights = nn.Linear(width, math.prod(self.layout))
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(star(num_heads, num_levels, num_points).flatten())
        for start in (self.weights.weight, self.weights.bias, self.value.bias, self.project.bias):
            nn.init.zeros_(start)
        for linear in (self.value, self.project):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        positions: Float[Tensor, "_b n d"],
        grid: Grid,
    ) -> Float[Tensor, "b n d"]:
        """Return the attended tokens of the grid."""
        heads, levels, points = self.layout
        queries = tokens + positions
        offsets = self.offsets(queries).unflatten(-1, (heads, levels, points, 2)).float()
        weights = self.weights(queries).unflatten(-1, (heads, levels * points)).softmax(-1)
        locations = grid.references[:, None, None, None] + offsets / grid.extents[:, None]
        values = self.value(tokens).unflatten(-1, (heads, -1))
        mixed = deformable_attention(values, grid, locations, weights.unflatten(-1, (levels, points)))
        out: Tensor = self.project(mixed)
        return out


def star(num_heads: int, num_levels: int, num_points: int) -> Float[Tensor, "heads l p 2"]:
    """Return the offsets (x, y) that deformable attention starts with [tokens]."""
    angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    distances = torch.arange(1, num_points + 1)[:, None]
    return (directions[:, None, None] * distances).expand(-1, num_levels, -1, -1)
