"""Scores of images made a band of rows at a time, so that nothing of an image's size times its classes is ever held.

Every kind below answers `rows(first, last)`; they nest: a crop of a resized map of a held tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from semask.resample import resize

NUMBERS = 2**21
"""Scores in a band: 8 MiB in float32, so that what is done to it finds it in a processor's cache."""


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
        # In float32 whatever autocast chose: resized bfloat16 scores tie, and ties decide labels.
        if (height, width) == self.size:
            return self.source.rows(first, last).float()
        if height == self.size[0]:
            return _widened(self.source.rows(first, last), self.size[1])
        position = np.clip((np.arange(first, last) + 0.5) * (height / self.size[0]) - 0.5, 0, height - 1)
        above = position.astype(np.intp)
        below = np.minimum(above + 1, height - 1)
        top, bottom = int(above[0]), int(below[-1]) + 1
        source = _widened(self.source.rows(top, bottom), self.size[1])
        # With the classes last: whoever looks for the best class finds them side by side.
        rows = source.permute(0, 2, 3, 1).flatten(2)
        mixed = _mix(rows, above - top, below - top, (position - above).astype(np.float32))
        return mixed.view(*mixed.shape[:2], self.size[1], -1).permute(0, 3, 1, 2)


def _widened(rows: Float[Tensor, "b k r w"], width: int) -> Float[Tensor, "b k r W"]:
    return resize(rows.float(), (rows.shape[-2], width))


def _mix(
    rows: Float[Tensor, "b r n"],
    above: Int[np.ndarray, " m"],
    below: Int[np.ndarray, " m"],
    share: Float[np.ndarray, " m"],
) -> Float[Tensor, "b m n"]:
    """Return (1 - share) of the rows above plus share of those below."""
    if rows.device.type != "cpu":
        # Not by a product of matrices, which a GPU may be told to round (TF32).
        upper, lower = (rows[:, torch.from_numpy(index).to(rows.device)] for index in (above, below))
        weight = torch.from_numpy(share).to(rows.device)[:, None]
        return upper * (1 - weight) + lower * weight
    # A product of matrices reads every row once, which makes it several times faster.
    mixing = np.zeros((len(above), rows.shape[1]), np.float32)
    index = np.arange(len(above))
    mixing[index, above] = 1 - share
    mixing[index, below] += share
    with torch.autocast("cpu", enabled=False):
        return torch.from_numpy(mixing) @ rows


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


def best_class(scores: Float[Tensor, "b k r W"]) -> Integer[Tensor, "b r W"]:
    """Return the class of the highest score of every pixel, the first of equal ones."""
    if scores.device.type != "cpu" or type(scores) is not Tensor:
        return scores.argmax(dim=1)
    # NumPy, which knows no bfloat16, looks through neighbouring numbers several times faster than torch on a processor.
    return torch.from_numpy(scores.detach().float().permute(0, 2, 3, 1).contiguous().numpy().argmax(-1))


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
