"""The canvas of a scene: shapes set a class and a material per pixel, light and texture come last.

Painting only writes three small maps; colours are computed once for the finished image, so that a scene of thirty
objects costs little more than an empty one. Coordinates are [px], rows downward, pixel centres at .5.
"""

from __future__ import annotations

from functools import cache
from math import floor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

Colour = tuple[float, float, float]

STREAKS, GRAIN, FOLIAGE, COURSES = range(4)
"""Textures: clouds and waves; asphalt and slate; leaves and grass; rows of stones."""
CONTRAST = np.array([0.22, 0.10, 0.34, 0.10], np.float32)
"""Standard deviation of each texture, as a share of the colour."""


class Material(NamedTuple):
    """A colour (RGB, 0 … 1) in the foreground and at the horizon, and a texture."""

    near: Colour
    far: Colour
    texture: int


class Canvas:
    """Maps of class, material and shade, and the shapes that fill them, clipped to the image."""

    def __init__(self, size: tuple[int, int], *, horizon: float) -> None:
        self.height, self.width = size
        self.horizon = horizon
        self.label = np.zeros(size, np.uint8)
        self.material = np.zeros(size, np.int16)
        self.shade = np.ones(size, np.float32)
        self._materials: dict[Material, int] = {}

    def rectangle(
        self, rows: tuple[float, float], columns: tuple[float, float], label: int, material: Material
    ) -> None:
        """Fill a rectangle; one thinner than a pixel is drawn one pixel thin."""
        box = _box(rows, self.height), _box(columns, self.width)
        self.label[box], self.material[box], self.shade[box] = label, self._number(material), 1.0

    def trapezoid(
        self,
        rows: tuple[float, float],
        upper: tuple[float, float],
        lower: tuple[float, float],
        label: int,
        material: Material,
    ) -> None:
        """Fill between two rows; `upper` and `lower` are the (left, right) columns at the first and at the last row."""
        box = _box(rows, self.height), _box((min(upper[0], lower[0]), max(upper[1], lower[1])), self.width)
        # left and right edges, linear between the two rows
        at, across = _centres(box)
        way = (at - rows[0]) / max(rows[1] - rows[0], 1e-6)
        left, right = upper[0] + (lower[0] - upper[0]) * way, upper[1] + (lower[1] - upper[1]) * way
        self.fill(box, (across >= left) & (across < right), label, material)

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        label: int,
        material: Material,
        *,
        ragged: Float32[np.ndarray, "H W"] | None = None,
    ) -> None:
        """Fill an ellipse; `ragged`, a field over the whole image, moves its edge in and out."""
        reach = 1.0 if ragged is None else 1.3
        box = self._around(centre, (radii[0] * reach, radii[1] * reach))
        distance = _distance(box, centre, radii)
        self.fill(box, distance < (1.0 if ragged is None else 1.0 + 0.2 * ragged[box]), label, material)

    def fill(self, box: tuple[slice, slice], mask: Bool[np.ndarray, "h w"], label: int, material: Material) -> None:
        """Fill the pixels of a box where the mask holds."""
        self.label[box][mask], self.material[box][mask], self.shade[box][mask] = label, self._number(material), 1.0

    def shadow(self, centre: tuple[float, float], radii: tuple[float, float], strength: float) -> None:
        """Darken an ellipse of the painting so far, softly towards its edge."""
        box = self._around(centre, radii)
        self.shade[box] *= 1.0 - strength * np.clip(1.5 * (1.0 - _distance(box, centre, radii)), 0.0, 1.0)

    def render(self, textures: Float32[np.ndarray, "4 H W"]) -> Float32[np.ndarray, "3 H W"]:
        """Return the colours, 0 … 1 and beyond: near to far towards the horizon, textured, shaded."""
        # colours of the materials, in the foreground and their change towards the horizon
        near = np.array([m.near for m in self._materials], np.float32).T
        away = np.array([m.far for m in self._materials], np.float32).T - near
        texture = np.array([m.texture for m in self._materials])
        rows = np.arange(self.height, dtype=np.float32)[:, None] + 0.5
        extent = np.where(rows < self.horizon, self.horizon, self.height - self.horizon).astype(np.float32)
        nearness = np.abs(rows - np.float32(self.horizon)) / extent
        # light and texture
        pattern = np.take_along_axis(textures, texture[self.material][None], axis=0)[0]
        brightness = self.shade * (1.0 + pattern * CONTRAST[texture][self.material])
        colours: np.ndarray = near[:, self.material]
        colours += away[:, self.material] * (1.0 - nearness)
        colours *= brightness
        return colours

    def _number(self, material: Material) -> int:
        return self._materials.setdefault(material, len(self._materials))

    def _around(self, centre: tuple[float, float], radii: tuple[float, float]) -> tuple[slice, slice]:
        (row, column), (high, wide) = centre, radii
        return _box((row - high, row + high), self.height), _box((column - wide, column + wide), self.width)


def noise(random: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Return smooth noise of unit variance at its nodes: `cells` random values down and across, interpolated."""
    values = random.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32)
    # bilinear interpolation between the nodes
    (above, down), (before, right) = _nodes(size[0], cells[0]), _nodes(size[1], cells[1])
    rows = values[above] + (values[above + 1] - values[above]) * down[:, None]
    smooth: np.ndarray = rows[:, before] + (rows[:, before + 1] - rows[:, before]) * right
    return smooth


@cache
def _nodes(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of `size` pixels on `cells` cells, the node before it and the way to the next, 0 … 1."""
    position = (np.arange(size) + 0.5) / size * cells
    before = position.astype(np.intp)
    return before, (position - before).astype(np.float32)


def _box(bounds: tuple[float, float], limit: int) -> slice:
    """Return the pixels whose centres lie within bounds, at least one inside the image."""
    first = min(max(floor(bounds[0] + 0.5), 0), limit)
    if bounds[1] <= 0:
        return slice(0, 0)
    return slice(first, min(max(floor(bounds[1] + 0.5), first + 1), limit))


def _centres(box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] + 0.5
    return rows, np.arange(box[1].start, box[1].stop, dtype=np.float32) + 0.5


def _distance(box: tuple[slice, slice], centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Return the squared distance from the centre, 1 on the ellipse."""
    rows, columns = _centres(box)
    return ((rows - centre[0]) / max(radii[0], 0.5)) ** 2 + ((columns - centre[1]) / max(radii[1], 0.5)) ** 2
