"""Bilinear interpolation as what it is, two taps per place along each axis, so that any part can be computed alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor

from semask.ops.resize import resize

Axis = Literal[-2, -1]
"""Rows or columns."""


class Taps(NamedTuple):
    """The two cells that each of n places along a resized axis lies between, and their weights.

    cells: their indices. top, bottom: the first cell that is read, and the one behind the last.
    """

    cells: Int[Tensor, "n 2"]
    weight: Float[Tensor, "n 2"]
    top: int
    bottom: int

    def spread(
        self, place: Integer[Tensor, "m t"], weight: Float[Tensor, "m t"]
    ) -> tuple[Int[Tensor, "m u"], Float[Tensor, "m u"]]:
        """Return weighted places as twice as many weighted cells."""
        return self.cells[place].flatten(1), (self.weight[place] * weight[..., None]).flatten(1)


def bilinear_taps(cells: int, places: int, first: int = 0, last: int | None = None) -> Taps:
    """Return the taps of places first … last - 1 on an axis of `cells` that is resized to `places`, as `resize` has it.

    Positions are computed in float64, which torch rounds to float32.
    """
    last, step = places if last is None else last, cells / places
    exact = ((torch.arange(first, last, dtype=torch.float64) + 0.5) * step - 0.5).clamp(0, cells - 1)
    # the cell before, and the share of the next one
    before = exact.int()
    share = (exact - before).float()
    # Computed once more as numbers, since the tensors may be fakes.
    top, bottom = (int(min(max((place + 0.5) * step - 0.5, 0), cells - 1)) for place in (first, last - 1))
    index = torch.stack([before, (before + 1).clamp_max(cells - 1)], 1)
    return Taps(index, torch.stack([1 - share, share], 1), top, min(bottom + 2, cells))


def mix(table: Float[Tensor, "m k"], index: Int[Tensor, "n t"], weights: Float[Tensor, "n t"]) -> Float[Tensor, "n k"]:
    """Return weighted sums of the rows of a table, by a bag of embeddings, the fastest way to read rows."""
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def interpolate_rows(source: Float[Tensor, "b k r w"], down: Taps, width: int) -> Float[Tensor, "b k R W"]:
    """Resize maps to `width` and to the rows of `down`, in float32; `source` holds the rows that `down` reads."""
    down = down._replace(cells=down.cells - down.top)
    if source.device.type != "cpu":
        # Not by a matrix product, which a GPU may round (TF32); and without waiting for the small tables to be copied.
        index, share = (part.to(source.device, non_blocking=True) for part in (down.cells, down.weight))
        wide = resize(source.float(), (source.shape[-2], width))
        upper, lower = wide[:, :, index[:, 0]], wide[:, :, index[:, 1]]
        return upper * share[:, :1] + lower * share[:, 1:]
    # Every pixel is a sum of four of the source's, whose classes lie side by side: in long rows of corners side by
    # side, since operations on rows of four would take as long as what they prepare.
    across = bilinear_taps(source.shape[-1], width)
    upper = torch.tensor([True, True, False, False]).repeat(width)
    lines = down.cells * source.shape[-1]
    index = torch.where(upper, lines[:, :1], lines[:, 1:]) + across.cells.repeat(1, 2).flatten()
    weights = torch.where(upper, down.weight[:, :1], down.weight[:, 1:]) * across.weight.repeat(1, 2).flatten()
    index, weights = index.view(-1, 4), weights.view(-1, 4)
    bags = [mix(table.flatten(0, 1), index, weights) for table in classes_last(source)]
    mixed = torch.stack(bags) if len(bags) > 1 else bags[0]
    return mixed.view(len(bags), len(down.cells), width, -1).permute(0, 3, 1, 2)


class Span(NamedTuple):
    """A stretch of a resized axis: places first … last - 1, interpolated from cells top … bottom - 1.

    above, below: the two cells of every place, counted from `top`. share: the weight of the cell below. matrix: the
    same as a matrix; None on an axis that keeps its size.
    """

    first: int
    last: int
    top: int
    bottom: int
    above: Integer[Tensor, " m"]
    below: Integer[Tensor, " m"]
    share: Float[Tensor, " m"]
    matrix: Float[Tensor, "m n"] | None

    def enlarge(self, cells: Float[Tensor, "*b h w"], axis: Axis) -> Float[Tensor, "*b H W"]:
        """Interpolate maps along `axis`, from cells to places."""
        if self.matrix is None:
            return cells
        if cells.device.type == "cpu":
            # A product of small matrices reads every cell once and is several times faster than two lookups.
            return cells @ self.matrix.T if axis == -1 else self.matrix @ cells
        return self.look_up(cells, axis)

    def look_up(self, cells: Tensor, axis: Axis) -> Tensor:
        """Enlarge by lookups, since a GPU may round the numbers of matrix products (TF32)."""
        above, below = (cells.index_select(axis, index) for index in (self.above, self.below))
        return above.lerp(below, self.share if axis == -1 else self.share[:, None])

    def enlarge_backward(self, places: Float[Tensor, "*b H W"], axis: Axis) -> Float[Tensor, "*b h w"]:
        """Return the gradient of the cells from that of the places: the transpose of `enlarge`."""
        if self.matrix is None:
            return places
        if places.device.type == "cpu":
            return places @ self.matrix if axis == -1 else self.matrix.T @ places
        return self.look_up_backward(places, axis)

    def look_up_backward(self, places: Tensor, axis: Axis) -> Tensor:
        shape = list(places.shape)
        shape[axis] = self.bottom - self.top
        # each place returns its shares to both cells
        below = places * (self.share if axis == -1 else self.share[:, None])
        cells = places.new_zeros(shape).index_add_(axis, self.above, places - below)
        return cells.index_add_(axis, self.below, below)


@lru_cache(maxsize=64)
def spans(
    cells: int, places: int, step: int, *, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Span, ...]:
    """Cut an axis of `cells` that is resized to `places` into spans of `step` places.

    Weights are torch's to the last bit: `interpolate` is linear, and is applied to the unit vectors of the cells.
    """
    found = []
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(cells, dtype=dtype, device="cpu")[None]
        matrix = F.interpolate(units, size=places, mode="linear", align_corners=align_corners)[0].T
        above = (matrix > 0).int().argmax(dim=1)
        below = (above + 1).clamp(max=cells - 1)
        share = 1 - matrix.gather(1, above[:, None])[:, 0]
        for first in range(0, places, step):
            last = min(first + step, places)
            top, bottom = int(above[first]), int(below[last - 1]) + 1
            if cells == places:
                bottom = top + last - first
            place = slice(first, last)
            weights = None if cells == places else matrix[place, top:bottom].contiguous().to(device)
            upper, lower = (each[place].sub(top).to(device) for each in (above, below))
            found.append(Span(first, last, top, bottom, upper, lower, share[place].to(device), weights))
    return tuple(found)


def pixel_centres(height: int, width: int, *, device: torch.device) -> Float[Tensor, "n 2"]:
    """Return the centres of a map's pixels, (x, y) in (0, 1), row by row."""
    down = (torch.arange(height, device=device) + 0.5) / height
    across = (torch.arange(width, device=device) + 0.5) / width
    grid = (across.expand(height, width), down[:, None].expand(height, width))
    return torch.stack(grid, dim=-1).flatten(0, 1)


def classes_last(scores: Float[Tensor, "b k r w"]) -> Float[Tensor, "b r w k"]:
    """Return scores in float32, those of a pixel side by side in memory."""
    scores = scores.float()
    last = scores.permute(0, 2, 3, 1)
    if last.is_contiguous() or scores.device.type != "cpu" or (scores.requires_grad and torch.is_grad_enabled()):
        return last.contiguous()
    found = torch.empty_like(last, memory_format=torch.contiguous_format)
    for image, table in zip(scores, found.flatten(1, 2), strict=True):
        lines = image.permute(1, 2, 0)
        # As a matrix, which torch transposes in blocks: several times faster.
        table.copy_(lines.flatten(0, 1) if lines.is_contiguous() else image.contiguous().flatten(1).t())
    return found
