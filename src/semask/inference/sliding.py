"""Sliding windows: scores of large images, averaged where windows overlap and freed once no window reaches them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor

from semask.inference.predictor import Images, Pipeline, Scorer, device_within, predictor_of
from semask.inference.regions import RegionImage
from semask.inference.seams import SeamMeter
from semask.ops.lazy_scores import (
    UNDECIDED,
    InMemory,
    LazyScores,
    Reader,
    SamplePoints,
    best_class,
    materialize,
    read_pixelwise,
)
from semask.ops.resize import window_starts
from semask.structures import Predictor

Blend = Literal["mean", "hann"]
UNSEEN = -2
"""In place of a class: no window has covered the pixel yet."""


class Window(NamedTuple):
    """Position of a window: its first row, the index of its image, and its first column."""

    row: int
    image: int
    column: int


class Options(NamedTuple):
    """The arguments of `sliding`."""

    window: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int
    blend: Blend
    valid_border: int
    memory_budget: float | None
    meter: SeamMeter | None


def sliding(
    source: Predictor | Scorer,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 1,
    blend: Blend = "mean",
    valid_border: int = 0,
    memory_budget: float | None = None,
    meter: SeamMeter | None = None,
) -> Pipeline:
    """Score windows (height, width) [px] every `stride` pixels and average the logits where they overlap.

    The last window of an axis ends at the border; an axis shorter than the window is taken whole. A model's window is
    at least its `size_multiple`: less would be padding for the most part. `batch_size` windows go through at once,
    whichever image they are of. `blend` "hann" trusts a window's middle more than its border: weights sin²(π(i+½)/n)
    along both axes. The `valid_border` [px] of a window, where it does not know what lies beyond, is
    left out unless it is the image's own. Windows whose rows are still to come are kept as the source gives them, small
    where a model does; if they would exceed `memory_budget` [GiB] at the image's size, they are kept and summed in the
    CPU's memory, and so are whole scores. `meter` counts where windows of one image disagree. Images may be read by
    region (`inference.regions.RegionImage`): windows without data are then left out.

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
    gaps = valid_border and any(side - 2 * valid_border < step for side, step in zip(window, stride, strict=True))
    if valid_border < 0 or gaps:
        raise ValueError(
            f"valid_border {valid_border} leaves gaps between windows of {window} at stride {stride}; it is at least 0 "
            f"and at most half the overlap, {min(w - s for w, s in zip(window, stride, strict=True)) // 2}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size counts windows per pass and must be at least 1, got {batch_size}")
    if blend not in get_args(Blend):
        raise ValueError(f"overlapping windows are blended by {' or '.join(get_args(Blend))}, got {blend!r}")
    predictor = predictor_of(source)
    options = Options(window, stride, batch_size, blend, valid_border, memory_budget, meter)
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
        (tall, wide), stride = options.window, options.stride
        self._window = tall, wide = min(tall, height), min(wide, width)
        # windows in order of their rows, so that all images advance together; in batches
        rows, columns = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
        windows = [*itertools.starmap(Window, itertools.product(rows, range(len(images)), columns))]
        step = options.batch_size
        self._pending = deque(windows[first : first + step] for first in range(0, len(windows), step))
        self._down, self._across = (
            {start: _weights(length, options, first=start == 0, last=start + length == size) for start in starts}
            for starts, length, size in ((rows, tall, height), (columns, wide, width))
        )
        self._totals = _summed(self._down, height), _summed(self._across, width)
        # a meter serves the first scale of one image
        self._meter = None
        if options.meter is not None and not options.meter.taken and len(images) == 1:
            self._meter, options.meter.taken = options.meter, True
            # how many windows cover each row, and each column
            self._covers = tuple(
                _summed({start: torch.ones(length) for start in starts}, size)
                for starts, length, size in ((rows, tall, height), (columns, wide, width))
            )
        self._scored: list[tuple[Window, LazyScores]] = []
        # The first windows are scored at once, since only their scores have the number of classes.
        self._score_next(even_empty=True)
        found = self._scored[0][1]
        self.shape, self.device = (len(images), found.shape[1], height, width), found.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        batch, classes, _, width = self.shape
        sums = torch.zeros(batch, last - first, width, classes, device=self.device)
        best: list[tuple[Window, int, Tensor]] = []
        # weighted sum of the windows over every pixel
        for window, scores, top, bottom in self._crossing(first, last):
            part = sums[window.image, top - first : bottom - first, window.column : window.column + self._window[1]]
            rows = slice(top - window.row, bottom - window.row)
            own = scores.rows(rows.start, rows.stop)
            weights = torch.outer(self._down[window.row][rows], self._across[window.column])
            part.addcmul_(own[0].permute(1, 2, 0).float(), weights.to(sums)[..., None])
            if self._meter:
                best.append((window, top, best_class(own)[0].cpu()))
        self._count_seams(first, last, best)
        # divided by the sum of their weights
        totals = torch.outer(self._totals[0][first:last], self._totals[1])
        return (sums / totals.to(sums)[..., None]).permute(0, 3, 1, 2)

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the classes that are best in all windows over a pixel: they are the best of its sum, too."""
        batch, _, _, width = self.shape
        known = torch.full((batch, last - first, width), UNSEEN, dtype=torch.int16)
        best: list[tuple[Window, int, Tensor]] = []
        crossing = self._crossing(first, last)
        for window, scores, top, bottom in crossing:
            part = known[window.image, top - first : bottom - first, window.column : window.column + self._window[1]]
            own = scores.certain_argmax(top - window.row, bottom - window.row)[0]
            best.append((window, top, own))
            agreed = torch.where((part == UNSEEN) | (part == own), own, UNDECIDED)
            if self._options.valid_border:
                rows = self._down[window.row][top - window.row : bottom - window.row]
                agreed = agreed.where(torch.outer(rows, self._across[window.column]) > 0, part)
            part.copy_(agreed)
        # where nothing is certain, all scores are asked for, and counted then
        if self._meter and any((own != UNDECIDED).any() for _, _, own in best):
            self._count_seams(first, last, [self._decided(*each) for each in zip(best, crossing, strict=True)])
        return known

    def _decided(
        self, best: tuple[Window, int, Tensor], crossing: tuple[Window, LazyScores, int, int]
    ) -> tuple[Window, int, Tensor]:
        """The best classes of a window where it shares pixels, read from its scores where they do not follow."""
        window, scores, top, bottom = crossing
        own = best[2].clone()
        undecided = own == UNDECIDED
        if self._options.stride != self._options.window:
            columns = slice(window.column, window.column + self._window[1])
            undecided &= (self._covers[0][top:bottom] > 1)[:, None] | (self._covers[1][columns] > 1)
        row, column = undecided.nonzero(as_tuple=True)
        if len(row):
            one = torch.ones(len(row), 1)
            points = SamplePoints(torch.zeros_like(row), row[:, None] + top - window.row, column[:, None], one, one)
            read = scores.reader(top - window.row, bottom - window.row)
            own[row, column] = read(points).argmax(dim=1).to(own.dtype)
        return window, top, own

    def reader(self, first: int, last: int) -> Reader:
        crossing = [
            (window, scores.reader(top - window.row, bottom - window.row))
            for window, scores, top, bottom in self._crossing(first, last)
        ]
        return partial(read_pixelwise, partial(self._read, crossing))

    def select(self, image: int) -> LazyScores:
        """Return the scores of one image, whose windows are scored once more."""
        images = self._images if isinstance(self._images, RegionImage) else self._images[image : image + 1]
        return Windows(self._predictor, images, self._options)

    def _read(self, crossing: Sequence[tuple[Window, Reader]], pixels: SamplePoints) -> Float[Tensor, "n k"]:
        """Return the weighted mean of the windows over every pixel."""
        tall, wide = self._window
        sums = torch.zeros(len(pixels.image), self.shape[1])
        for window, read in crossing:
            row, column = pixels.row[:, 0] - window.row, pixels.column[:, 0] - window.column
            inside = (pixels.image == window.image) & (row >= 0) & (row < tall) & (column >= 0) & (column < wide)
            # this window's share of the pixels
            (number,) = inside.nonzero(as_tuple=True)
            row, column, one = row[number], column[number], torch.ones(len(number), 1)
            own = SamplePoints(torch.zeros_like(row), row[:, None], column[:, None], one, one)
            weights = self._down[window.row][row] * self._across[window.column][column]
            sums.index_add_(0, number, read(own) * weights[:, None])
        return sums / (self._totals[0][pixels.row] * self._totals[1][pixels.column])

    def _count_seams(self, first: int, last: int, best: Sequence[tuple[Window, int, Tensor]]) -> None:
        """Show the meter rows first … last - 1 of the windows' best classes, each from its row `top` on."""
        if self._meter is None:
            return
        height, width = self.shape[2:]
        known = torch.full((last - first, width), UNSEEN, dtype=torch.int16)
        shared, differing = torch.zeros(2, last - first, width, dtype=torch.bool)
        nearest = torch.full((last - first, width), height + width)
        for window, top, own in best:
            place = slice(top - first, top - first + len(own)), slice(window.column, window.column + own.shape[1])
            part = known[place]
            both = (part >= 0) & (own >= 0)
            shared[place] |= both
            differing[place] |= both & (part != own)
            part.copy_(part.where(part >= 0, own.to(torch.int16)))
            # distance to the borders of the window that are not the image's
            down, across = (
                _distance(length, first=start == 0, last=start + length == size)
                for start, length, size in (
                    (window.row, self._window[0], height),
                    (window.column, self._window[1], width),
                )
            )
            rows = down[top - window.row : top - window.row + len(own)]
            nearest[place] = nearest[place].minimum(rows[:, None].minimum(across))
        borders = [*self._down][1:], [*self._across][1:]
        self._meter.add(first, known, borders, shared, differing, nearest)

    def _crossing(self, first: int, last: int) -> list[tuple[Window, LazyScores, int, int]]:
        """Return the windows over rows first … last - 1 with their scores and the first and last of those rows.

        Windows above `first` are freed, and not scored if they have not been: making scores smaller skips rows.
        """
        tall = self._window[0]
        # free the windows above
        self._scored = [(window, scores) for window, scores in self._scored if window.row + tall > first]
        # score the windows down to the last row, whole batches of them, whichever rows were asked for before
        while self._pending and self._pending[0][0].row < last:
            if self._pending[0][-1].row + tall <= first:
                self._pending.popleft()
            else:
                self._score_next()
        return [
            (window, scores, max(first, window.row), min(last, window.row + tall))
            for window, scores in self._scored
            if window.row < last and window.row + tall > first
        ]

    def _score_next(self, *, even_empty: bool = False) -> None:
        """Score a batch of windows; those without data are left out, unless `even_empty`."""
        batch, (tall, wide) = self._pending.popleft(), self._window
        images = self._images
        if isinstance(images, RegionImage) and not even_empty:
            batch = [window for window in batch if not images.is_empty(window.row, window.column, tall, wide)]
        if not batch:
            return
        crops = [images[w.image, :, w.row : w.row + tall, w.column : w.column + wide] for w in batch]
        found = self._predictor.lazy_scores(torch.stack(crops))
        # All that are kept at once, at the images' width.
        shape = (len(self._images), found.shape[1], tall, self._images.shape[-1])
        device = device_within(shape, found.device, self._options.memory_budget)
        if device != found.device:
            found = InMemory(materialize(found, device=device))
        self._scored += [(window, found.select(number)) for number, window in enumerate(batch)]


def _weights(length: int, options: Options, *, first: bool, last: bool) -> Float[Tensor, " n"]:
    """Return the weights of a window along one axis; `first` and `last` windows end at the image's border."""
    weights = torch.ones(length, dtype=torch.float64)
    if options.blend == "hann":
        weights = torch.sin(math.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length) ** 2
    return weights.float().where(_distance(length, first=first, last=last) >= options.valid_border, 0.0)


def _distance(length: int, *, first: bool, last: bool) -> Int[Tensor, " n"]:
    """Return the distance [px] of places along an axis to the nearest end that is not the image's border."""
    place = torch.arange(length)
    far = torch.full_like(place, 2**30)
    return (far if first else place).minimum(far if last else length - 1 - place)


def _summed(weights: Mapping[int, Float[Tensor, " n"]], size: int) -> Float[Tensor, " s"]:
    """Return the weights of all windows along one axis, by their starts, summed where they overlap."""
    total = torch.zeros(size)
    for start, own in weights.items():
        total[start : start + len(own)] += own
    return total
