"""Sliding windows: scores of large images, averaged where windows overlap and freed once no window reaches them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from semask.inference.predictor import Images, Pipeline, Scorer, device_within, predictor_of
from semask.ops.lazy_scores import UNDECIDED, InMemory, LazyScores, Reader, SamplePoints, materialize, read_pixelwise
from semask.ops.resize import window_starts
from semask.structures import Predictor

Blend = Literal["mean", "hann"]
UNSEEN = -2
"""In place of a class: no window has covered the pixel yet."""


Options = tuple[tuple[int, int], tuple[int, int], int, Blend, float | None]
"""Window, stride, batch size, blend and memory budget of `sliding`."""


class Window(NamedTuple):
    """Position of a window: its first row, the index of its image, and its first column."""

    row: int
    image: int
    column: int


def sliding(
    source: Predictor | Scorer,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 1,
    blend: Blend = "mean",
    memory_budget: float | None = None,
) -> Pipeline:
    """Score windows (height, width) [px] every `stride` pixels and average the logits where they overlap.

    The last window of an axis ends at the border; an axis shorter than the window is taken whole. A model's window is
    at least its `size_multiple`: less would be padding for the most part. `batch_size` windows go through at once,
    whichever image they are of. `blend` "hann" trusts a window's middle more than its border: weights sin²(π(i+½)/n)
    along both axes. Windows whose rows are still to come are kept as the source gives them, small where a model does;
    if they would exceed `memory_budget` [GiB] at the image's size, they are kept and summed in the CPU's memory, and so
    are whole scores.

    Source: Segmenter's authors' code and SeMask-FPN's slide mode (mmsegmentation) place the same windows.

    >>> import semask, torch
    >>> model = semask.build("scenes/semask-micro-fpn")
    >>> predictor = semask.sliding(model, window=(64, 64), stride=(48, 48), blend="hann")
    >>> tuple(predictor.labels(torch.rand(1, 3, 80, 100)).shape)
    (1, 80, 100)

    Raises:
        ValueError: window, stride, batch size or blend is out of range.
    """
    if min(window) < 1 or min(stride) < 1:
        raise ValueError(f"window and stride must be at least 1 pixel, got window {window} and stride {stride}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride} leaves gaps between windows of {window}; give a stride no larger than the window "
            "(--test.window, --test.stride)"
        )
    smallest = getattr(source, "size_multiple", 1)
    if min(window) < smallest:
        raise ValueError(
            f"a window of {window} is smaller than what this model pads images to, {smallest}×{smallest} px (a ViT's "
            f"patch, a pyramid's stride); give a window of at least that, best of the size of the training crop"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size counts windows per pass and must be at least 1, got {batch_size}")
    if blend not in get_args(Blend):
        raise ValueError(f"overlapping windows are blended by {' or '.join(get_args(Blend))}, got {blend!r}")
    predictor = predictor_of(source)
    options = (window, stride, batch_size, blend, memory_budget)
    return Pipeline(
        lambda images: Windows(predictor, images, options),
        scores_are_logits=predictor.scores_are_logits,
        memory_budget=memory_budget,
    )


class Windows(LazyScores):
    """Scores computed by windows, a row of windows at a time, when their rows are requested.

    Windows are kept as a model gives them, small, and brought to their size where a block of rows crosses them.
    """

    def __init__(self, predictor: Pipeline, images: Images, options: Options) -> None:
        height, width = images.shape[-2:]
        self._predictor, self._images, self._options = predictor, images, options
        window, stride, self._batch_size, blend, self._budget = options
        self._window = tall, wide = min(window[0], height), min(window[1], width)
        # windows in order of their rows, so that all images advance together
        rows, columns = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
        self._pending = deque(itertools.starmap(Window, itertools.product(rows, range(len(images)), columns)))
        self._weights = down, across = _weights(tall, blend).float(), _weights(wide, blend).float()
        self._totals = _summed(down, rows, height), _summed(across, columns, width)
        self._scored: list[tuple[Window, LazyScores]] = []
        # The first windows are scored at once, since only their scores have the number of classes.
        self._score_next()
        found = self._scored[0][1]
        self.shape, self.device = (len(images), found.shape[1], height, width), found.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        batch, classes, _, width = self.shape
        sums = torch.zeros(batch, last - first, width, classes, device=self.device)
        down, across = (weights.to(sums) for weights in self._weights)
        # weighted sum of the windows over every pixel
        for window, scores, top, bottom in self._crossing(first, last):
            part = sums[window.image, top - first : bottom - first, window.column : window.column + len(across)]
            rows = slice(top - window.row, bottom - window.row)
            own = scores.rows(rows.start, rows.stop)[0].permute(1, 2, 0)
            part.addcmul_(own.float(), torch.outer(down[rows], across)[..., None])
        # divided by the sum of their weights
        totals = torch.outer(self._totals[0][first:last], self._totals[1])
        return (sums / totals.to(sums)[..., None]).permute(0, 3, 1, 2)

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the classes that are best in all windows over a pixel: they are the best of its sum, too."""
        batch, _, _, width = self.shape
        known = torch.full((batch, last - first, width), UNSEEN, dtype=torch.int16)
        wide = self._window[1]
        for window, scores, top, bottom in self._crossing(first, last):
            part = known[window.image, top - first : bottom - first, window.column : window.column + wide]
            own = scores.certain_argmax(top - window.row, bottom - window.row)[0]
            part.copy_(torch.where((part == UNSEEN) | (part == own), own, UNDECIDED))
        return known

    def reader(self, first: int, last: int) -> Reader:
        crossing = [
            (window, scores.reader(top - window.row, bottom - window.row))
            for window, scores, top, bottom in self._crossing(first, last)
        ]
        return partial(read_pixelwise, partial(self._read, crossing))

    def select(self, image: int) -> LazyScores:
        """Return the scores of one image, whose windows are scored once more."""
        return Windows(self._predictor, self._images[image : image + 1], self._options)

    def _read(self, crossing: Sequence[tuple[Window, Reader]], pixels: SamplePoints) -> Float[Tensor, "n k"]:
        """Return the weighted mean of the windows over every pixel."""
        (tall, wide), (down, across) = self._window, self._weights
        sums = torch.zeros(len(pixels.image), self.shape[1])
        for window, read in crossing:
            row, column = pixels.row[:, 0] - window.row, pixels.column[:, 0] - window.column
            inside = (pixels.image == window.image) & (row >= 0) & (row < tall) & (column >= 0) & (column < wide)
            # this window's share of the pixels
            (number,) = inside.nonzero(as_tuple=True)
            row, column, one = row[number], column[number], torch.ones(len(number), 1)
            own = SamplePoints(torch.zeros_like(row), row[:, None], column[:, None], one, one)
            sums.index_add_(0, number, read(own) * (down[row] * across[column])[:, None])
        return sums / (self._totals[0][pixels.row] * self._totals[1][pixels.column])

    def _crossing(self, first: int, last: int) -> list[tuple[Window, LazyScores, int, int]]:
        """Return the windows over rows first … last - 1 with their scores and the first and last of those rows.

        Windows above `first` are freed, and not scored if they have not been: making scores smaller skips rows.
        """
        tall = self._window[0]
        # free the windows above
        self._scored = [(window, scores) for window, scores in self._scored if window.row + tall > first]
        # score the windows down to the last row
        while self._pending and self._pending[0].row < last:
            if self._pending[0].row + tall <= first:
                self._pending.popleft()
            else:
                self._score_next()
        return [
            (window, scores, max(first, window.row), min(last, window.row + tall))
            for window, scores in self._scored
            if window.row < last
        ]

    def _score_next(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(self._batch_size, len(self._pending)))]
        tall, wide = self._window
        crops = [self._images[w.image, :, w.row : w.row + tall, w.column : w.column + wide] for w in batch]
        found = self._predictor.lazy_scores(torch.stack(crops))
        # All that are kept at once, at the images' width.
        shape = (len(self._images), found.shape[1], tall, self._images.shape[-1])
        device = device_within(shape, found.device, self._budget)
        if device != found.device:
            found = InMemory(materialize(found, device=device))
        self._scored += [(window, found.select(number)) for number, window in enumerate(batch)]


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
