"""Bilinear interpolation seen as what it is, a linear map along each axis, so that a tile of it can be made alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

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
