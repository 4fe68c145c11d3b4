"""Scores of images made a band of rows at a time, so that nothing of an image's size times its classes is ever held.

Every kind below answers `rows(first, last)`; they nest: a crop of a resized map of a held tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NUMBERS = 2**23
"""Scores in a band: 32 MiB in float32."""


@runtime_checkable  # for the tests, which check the types in annotations
class Bands(Protocol):
    """Scores of images (b k H W) that are made when they are asked for.

    Rows are asked for from the top down: `first` never decreases, and what lies above it may be gone.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""


class Held(NamedTuple):
    """Scores that are there already."""

    scores: Float[Tensor, "b k H W"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        batch, classes, height, width = self.scores.shape
        return batch, classes, height, width

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        return self.scores[:, :, first:last]


class Resized(NamedTuple):
    """Scores brought to `size` (height, width), bilinearly, without antialiasing and without aligned corners."""

    source: Bands
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        return *self.source.shape[:2], *self.size

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1, in float32."""
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.rows(first, last)
        position = np.clip((np.arange(first, last) + 0.5) * (height / self.size[0]) - 0.5, 0, height - 1)
        above = position.astype(np.intp)
        below = np.minimum(above + 1, height - 1)
        top, bottom = int(above[0]), int(below[-1]) + 1
        # In float32 whatever autocast chose: resized bfloat16 scores tie, and ties decide labels.
        source = self.source.rows(top, bottom).float()
        if width != self.size[1]:
            source = F.interpolate(source, (bottom - top, self.size[1]), mode="bilinear", align_corners=False)
        if height == self.size[0]:
            return source
        mixing = np.zeros((last - first, bottom - top), np.float32)
        index = np.arange(last - first)
        mixing[index, above - top] = 1 - (position - above)
        mixing[index, below - top] += position - above
        with torch.autocast(source.device.type, enabled=False):
            return torch.from_numpy(mixing).to(source.device) @ source


class Cut(NamedTuple):
    """The upper left corner of scores, of `size` (height, width): what padding added is left out."""

    source: Bands
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        return *self.source.shape[:2], *self.size

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        return self.source.rows(first, last)[..., : self.size[1]]


class Combined(NamedTuple):
    """Σ_q p(class k | q)·p(pixel in mask q): probabilities of queries' classes, and their masks as logits (b q H W)."""

    classes: Float[Tensor, "b q k"]
    masks: Bands

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        batch, _, height, width = self.masks.shape
        return batch, self.classes.shape[-1], height, width

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        masks = self.masks.rows(first, last).float().sigmoid()
        with torch.autocast(masks.device.type, enabled=False):
            return torch.einsum("bqk,bqhw->bkhw", self.classes, masks)


def walk(bands: Bands) -> Iterator[tuple[int, int, Float[Tensor, "b k r W"]]]:
    """Yield (first, last, scores) from the top down, about `NUMBERS` scores at a time."""
    batch, classes, height, width = bands.shape
    step = max(1, NUMBERS // max(1, batch * classes * width))
    for first in range(0, height, step):
        last = min(first + step, height)
        yield first, last, bands.rows(first, last)


def gather(bands: Bands, *, device: torch.device | str | None = None) -> Float[Tensor, "b k H W"]:
    """Return all scores as one tensor, on `device`, or where they are made."""
    if isinstance(bands, Held) and device is None:
        return bands.scores
    whole: Tensor | None = None
    for first, last, scores in walk(bands):
        if whole is None:
            whole = scores.new_empty(bands.shape, device=device)
        whole[:, :, first:last] = scores
    assert whole is not None  # images have at least one row
    return whole
