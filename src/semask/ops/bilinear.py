"""Bilinear interpolation seen as what it is, a linear map along each axis, so that a tile of it can be made alone."""

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


class Span(NamedTuple):
    """A stretch of one axis: places first … last - 1 of the resized axis, made of cells top … bottom - 1.

    above, below: the two cells of every place, counted from `top`. share: how much of a place is of the cell below.
    matrix: the same as a matrix; None of an axis that keeps its size.
    """

    first: int
    last: int
    top: int
    bottom: int
    above: Integer[Tensor, " m"]
    below: Integer[Tensor, " m"]
    share: Float[Tensor, " m"]
    matrix: Float[Tensor, "m n"] | None

    def spread(self, cells: Float[Tensor, "*b h w"], axis: Axis) -> Float[Tensor, "*b H W"]:
        """Return maps whose cells along `axis` have become places."""
        if self.matrix is None:
            return cells
        if cells.device.type == "cpu":
            # A product of small matrices reads every cell once and is several times faster than two lookups.
            return cells @ self.matrix.T if axis == -1 else self.matrix @ cells
        # A GPU may have been told to round the numbers of matrix products (TF32).
        return self._looked_up(cells, axis)

    def gather(self, places: Float[Tensor, "*b H W"], axis: Axis) -> Float[Tensor, "*b h w"]:
        """Return what every cell gets of its places: the transpose of `spread`."""
        if self.matrix is None:
            return places
        if places.device.type == "cpu":
            return places @ self.matrix if axis == -1 else self.matrix.T @ places
        return self._handed_back(places, axis)

    def _looked_up(self, cells: Tensor, axis: Axis) -> Tensor:
        above, below = (cells.index_select(axis, index) for index in (self.above, self.below))
        return above.lerp(below, self._shares(axis))

    def _handed_back(self, places: Tensor, axis: Axis) -> Tensor:
        shape = list(places.shape)
        shape[axis] = self.bottom - self.top
        below = places * self._shares(axis)
        cells = places.new_zeros(shape).index_add_(axis, self.above, places - below)
        return cells.index_add_(axis, self.below, below)

    def _shares(self, axis: Axis) -> Tensor:
        return self.share if axis == -1 else self.share[:, None]


@lru_cache(maxsize=64)
def spans(
    cells: int, places: int, step: int, *, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Span, ...]:
    """Cut an axis of `cells` that is resized to `places` into spans of `step` places.

    The shares are those of torch's `interpolate`, to the last bit: it is linear, and is asked what it does to the
    numbers of the cells.
    """
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(cells, dtype=dtype, device="cpu")[None]
        matrix = F.interpolate(unit, size=places, mode="linear", align_corners=align_corners)[0].T
        above = (matrix > 0).int().argmax(dim=1)  # the first cell that a place looks at
        below = (above + 1).clamp(max=cells - 1)
        share = 1 - matrix.gather(1, above[:, None])[:, 0]
        found = []
        for first in range(0, places, step):
            last = min(first + step, places)
            top, bottom = int(above[first]), int(below[last - 1]) + 1
            if cells == places:
                bottom = top + last - first
            index = slice(first, last)
            found.append(
                Span(
                    first,
                    last,
                    top,
                    bottom,
                    above=(above[index] - top).to(device),
                    below=(below[index] - top).to(device),
                    share=share[index].to(device),
                    matrix=None if cells == places else matrix[index, top:bottom].contiguous().to(device),
                )
            )
        return tuple(found)


class Neighbours(NamedTuple):
    """For every pixel along an axis, the two of another grid that it lies between, and what share each has.

    reach: the first of those pixels, and the one behind the last.
    """

    pixel: Int[Tensor, "n 2"]
    share: Float[Tensor, "n 2"]
    reach: tuple[int, int]

    def between(
        self, position: Integer[Tensor, "m t"], weight: Float[Tensor, "m t"]
    ) -> tuple[Int[Tensor, "m u"], Float[Tensor, "m u"]]:
        """Return weighted pixels as twice as many of the other grid."""
        return self.pixel[position].flatten(1), (self.share[position] * weight[..., None]).flatten(1)


def neighbours(length: int, size: int, first: int = 0, last: int | None = None) -> Neighbours:
    """Return where pixels first … last - 1 of `size` lie among `length`, as `resize` has it, in float64."""
    last = size if last is None else last
    pixels = torch.arange(first, last, dtype=torch.float64)
    position = ((pixels + 0.5) * (length / size) - 0.5).clamp(0, length - 1)
    before = position.int()
    share = (position - before).float()
    # Reckoned once more, since the tensors may lie on another device, or be fakes.
    top, bottom = (int(min(max((pixel + 0.5) * (length / size) - 0.5, 0), length - 1)) for pixel in (first, last - 1))
    return Neighbours(
        torch.stack([before, (before + 1).clamp_max(length - 1)], 1),
        torch.stack([1 - share, share], 1),
        (top, min(bottom + 2, length)),
    )


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


def mix(table: Float[Tensor, "m k"], index: Int[Tensor, "n t"], weights: Float[Tensor, "n t"]) -> Float[Tensor, "n k"]:
    """Return weighted sums of rows of a table: what a bag of embeddings is, and nothing reads rows faster."""
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def corners(down: Neighbours, across: Neighbours, width: int) -> tuple[Int[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Return the four pixels that each of a grid's lies between, counted row by row of `width`, and their shares."""
    # By long rows of corners side by side: operations on rows of four would take as long as what they prepare.
    upper = torch.tensor([True, True, False, False]).repeat(len(across.pixel))
    lines = down.pixel * width
    index = torch.where(upper, lines[:, :1], lines[:, 1:]) + across.pixel.repeat(1, 2).flatten()
    weights = torch.where(upper, down.share[:, :1], down.share[:, 1:]) * across.share.repeat(1, 2).flatten()
    return index.view(-1, 4), weights.view(-1, 4)


def interpolated(source: Float[Tensor, "b k r w"], down: Neighbours, top: int, width: int) -> Float[Tensor, "b k R W"]:
    """Return what `Resized.rows` does by operations that a GPU is good at.

    Not by a product of matrices, which it may be told to round (TF32).
    """
    # Without waiting for the device: what is copied is small, and nobody changes it meanwhile.
    index, share = (part.to(source.device, non_blocking=True) for part in (down.pixel - top, down.share))
    wide = resize(source, (source.shape[-2], width))
    upper, lower = wide[:, :, index[:, 0]], wide[:, :, index[:, 1]]
    return upper * share[:, :1] + lower * share[:, 1:]


def centres(height: int, width: int, *, device: torch.device) -> Float[Tensor, "n 2"]:
    """Return where the tokens of a map lie, (x, y) in (0, 1), row by row."""
    down = (torch.arange(height, device=device) + 0.5) / height
    across = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack((across.repeat(height), down.repeat_interleave(width)), dim=-1)
