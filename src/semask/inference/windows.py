"""Sliding windows: scores of large images, summed where windows overlap and let go when no window reaches them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from semask.bands import Bands, Held, Reader, unsure
from semask.geometry import window_starts
from semask.inference.predictor import Model, Predictor, Scorer, place, predictor_of

Blend = Literal["mean", "hann"]


class Window(NamedTuple):
    """Where a window lies: the number of its image, and its first row and column."""

    row: int
    image: int
    column: int


def sliding(
    source: Model | Predictor | Scorer,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 1,
    blend: Blend = "mean",
    memory_budget: float | None = None,
) -> Predictor:
    """Score windows (height, width) [px] every `stride` pixels and average the logits where they overlap.

    The last window of an axis ends at the border; an axis shorter than the window is taken whole. A model's window is
    at least its `size_multiple`: less would be padding for the most part. `batch_size` windows go through at once,
    whichever image they are of. `blend` "hann" trusts a window's middle more than its border: weights sin²(π(i+½)/n)
    along both axes. Sums of the rows that windows still reach are kept in the processor's memory when they need more
    than `memory_budget` [GiB], and so are whole scores.

    Source: Segmenter's authors' code and SeMask-FPN's slide mode (mmsegmentation) place the same windows.
    """
    _check_windows(window, stride, smallest=getattr(source, "size_multiple", 1))
    _check_blending(batch_size, blend)
    predictor = predictor_of(source)

    def bands(images: Float[Tensor, "b c H W"]) -> Bands:
        return Windows(
            predictor,
            images,
            window=window,
            stride=stride,
            batch_size=batch_size,
            blend=blend,
            memory_budget=memory_budget,
        )

    return Predictor(bands, logits=predictor.logits, memory_budget=memory_budget)


class Windows:
    """Bands of scores that are made by windows, a row of windows at a time, when their rows are asked for."""

    def __init__(
        self,
        predictor: Predictor,
        images: Float[Tensor, "b c H W"],
        *,
        window: tuple[int, int],
        stride: tuple[int, int],
        batch_size: int,
        blend: Blend,
        memory_budget: float | None,
    ) -> None:
        height, width = images.shape[-2:]
        self._predictor, self._images = predictor, images
        self._batch_size, self._memory_budget = batch_size, memory_budget
        self._window = tall, wide = min(window[0], height), min(window[1], width)
        rows, columns = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
        self._pending = deque(itertools.starmap(Window, itertools.product(rows, range(len(images)), columns)))
        down, across = _weights(tall, blend), _weights(wide, blend)
        self._weights = torch.outer(down, across)
        self._totals = _summed(down, rows, height), _summed(across, columns, width)
        self._first = 0
        """The row that sums begin with."""
        self._sums: Tensor | None = None
        self._score_next(0)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        batch, _, height, width = self._images.shape
        return batch, self._summed.shape[1], height, width

    @property
    def device(self) -> torch.device:
        """Return where the sums are."""
        return self._summed.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        while self._pending and self._pending[0].row < last:
            self._score_next(first)
        down, across = self._totals
        weights = torch.outer(down[first:last], across)
        return self._summed[:, :, first - self._first : last - self._first] / weights.to(self._summed)

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return no class: the sums tell."""
        return unsure(self, first, last)

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads the scores of these rows, all of which are made."""
        rows = Held(self.rows(first, last)).reader(0, last - first)
        return lambda places: rows(places._replace(row=places.row - first))

    @property
    def _summed(self) -> Tensor:
        assert self._sums is not None  # the first windows are scored at once
        return self._sums

    def _score_next(self, needed: int) -> None:
        """Add the next windows to the sums, of which rows from `needed` on are kept."""
        batch = [self._pending.popleft() for _ in range(min(self._batch_size, len(self._pending)))]
        tall, wide = self._window
        crops = [self._images[w.image, :, w.row : w.row + tall, w.column : w.column + wide] for w in batch]
        found = self._predictor(torch.stack(crops))
        # Making scores smaller may leave rows out, and windows begin in these, too.
        self._reach(batch[-1].row + tall, min(needed, batch[0].row), found)
        self._weights = self._weights.to(self._summed)  # copied to a GPU once
        for (row, image, column), scores in zip(batch, found, strict=True):
            top = row - self._first
            part = self._summed[image, :, top : top + tall, column : column + wide]
            part.addcmul_(scores.to(part), self._weights)

    def _reach(self, bottom: int, needed: int, found: Float[Tensor, "n k h w"]) -> None:
        """Make room for sums down to row `bottom`, and let go of rows above `needed`."""
        if self._sums is not None and bottom <= self._first + self._sums.shape[2]:
            return
        shape = (len(self._images), found.shape[1], bottom - needed, self._images.shape[-1])
        sums = torch.zeros(shape, dtype=torch.float32, device=place(shape, found.device, self._memory_budget))
        if self._sums is not None:
            kept = self._sums[:, :, needed - self._first :]
            sums[:, :, : kept.shape[2]] = kept
        self._sums, self._first = sums, needed


def _check_windows(window: tuple[int, int], stride: tuple[int, int], *, smallest: int) -> None:
    if min(window) < 1 or min(stride) < 1:
        raise ValueError(f"window and stride must be at least 1 pixel, got window {window} and stride {stride}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride} leaves gaps between windows of {window}; give a stride no larger than the window "
            "(--test.window, --test.stride)"
        )
    if min(window) < smallest:
        raise ValueError(
            f"a window of {window} is smaller than what this model pads images to, {smallest}×{smallest} px (a ViT's "
            f"patch, a pyramid's stride); give a window of at least that, best of the size of the training crop"
        )


def _check_blending(batch_size: int, blend: str) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size counts windows per pass and must be at least 1, got {batch_size}")
    if blend not in get_args(Blend):
        raise ValueError(f"overlapping windows are blended by {' or '.join(get_args(Blend))}, got {blend!r}")


def _weights(length: int, blend: Blend) -> Float[Tensor, " n"]:
    """Return the weights of a window along one axis, all of them positive."""
    if blend == "mean":
        return torch.ones(length, dtype=torch.float64)
    return torch.sin(math.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length) ** 2


def _summed(weights: Float[Tensor, " n"], starts: Sequence[int], size: int) -> Float[Tensor, " s"]:
    """Return the weights of all windows along one axis, summed where they overlap."""
    total = weights.new_zeros(size)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
