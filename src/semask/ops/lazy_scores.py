"""Scores of images computed a block of rows at a time, so that memory never holds an image's size times its classes.

The kinds below nest: a crop of a resized map of a tensor in memory. `semask.ops.argmax` turns them into labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int16, Integer, UInt8
from torch import Tensor

from semask.ops.bilinear import Taps, bilinear_taps, classes_last, interpolate_rows, mix
from semask.ops.device import without_autocast
from semask.ops.reference import is_reference
from semask.ops.resize import resize

NUMBERS = 2**21
"""Scores in a block of rows on the CPU: 8 MiB in float32, so that all steps find it in the cache."""
NUMBERS_ON_GPU = 2**24
"""The same on a GPU, where each block costs a dozen calls, however small it is: 64 MiB in float32."""
UNDECIDED = -1
"""In place of a class: only the scores themselves decide."""

Size = tuple[int, int]


class SamplePoints(NamedTuple):
    """Points at which scores are wanted: each is a weighted sum of t × u pixels of an image.

    image: its index. row, column: of the pixels. down, across: their weights along both axes.
    """

    image: Int[Tensor, " n"]
    row: Int[Tensor, "n t"]
    column: Int[Tensor, "n u"]
    down: Float[Tensor, "n t"]
    across: Float[Tensor, "n u"]


Reader = Callable[[SamplePoints], Float[Tensor, "n k"]]


class LazyScores:
    """Scores of images (b k H W) that are computed on request; by default those of a `source`.

    Rows are requested from the top down: `first` never decreases, and the rows above it may be gone.

    shape: (b, k, H, W). device: where scores are computed.
    """

    shape: tuple[int, int, int, int]
    device: torch.device

    def __init__(self, source: LazyScores, size: Size | None = None, *, num_classes: int | None = None) -> None:
        """`size` (height, width) and `num_classes` are the source's unless given."""
        batch, classes, *own = source.shape
        self.source, self.device = source, source.device
        self.size = (own[0], own[1]) if size is None else size
        self.shape = (batch, classes if num_classes is None else num_classes, *self.size)

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        raise NotImplementedError

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes of rows first … last - 1 where they follow without these scores, else `UNDECIDED`."""
        batch, _, _, width = self.shape
        return torch.full((batch, last - first, width), UNDECIDED, dtype=torch.int16)

    def reader(self, first: int, last: int) -> Reader:
        """Return a function that reads scores at points within rows first … last - 1."""
        return self.source.reader(first, last)

    def select(self, image: int) -> LazyScores:
        """Return the scores of one image of the batch, before any rows are requested."""
        selected = copy.copy(self)
        selected.source, selected.shape = self.source.select(image), (1, *self.shape[1:])
        return selected


class InMemory(LazyScores):
    """Scores that exist already."""

    def __init__(self, scores: Float[Tensor, "b k H W"]) -> None:
        batch, classes, height, width = scores.shape
        self.scores, self.shape, self.device = scores, (batch, classes, height, width), scores.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        return self.scores[:, :, first:last]

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes; pixels whose scores are not all finite are undecided."""
        scores = classes_last(self.rows(first, last))
        best = best_class(scores.permute(0, 3, 1, 2)).to(torch.int16)
        return best.where(scores.sum(-1).isfinite(), UNDECIDED)

    def reader(self, first: int, last: int) -> Reader:
        scores = classes_last(self.rows(first, last))
        _, height, width, classes = scores.shape
        return partial(_read_table, scores.view(-1, classes), (height, width), first)

    def select(self, image: int) -> LazyScores:
        return InMemory(self.scores[image : image + 1])


def _read_table(table: Float[Tensor, "m k"], size: Size, first: int, points: SamplePoints) -> Float[Tensor, "n k"]:
    # rows of the table of all t × u pixels, and their weights
    lines = (points.image * size[0])[:, None] + (points.row - first)
    index = lines[:, :, None] * size[1] + points.column[:, None]
    return mix(table, index.flatten(1), (points.down[:, :, None] * points.across[:, None]).flatten(1))


class Decided(LazyScores):
    """Label maps whose scores are unknown, with the probability of each label where that is known."""

    def __init__(
        self, labels: UInt8[Tensor, "b H W"], confidence: Float[Tensor, "b H W"] | None = None, *, num_classes: int
    ) -> None:
        batch, height, width = labels.shape
        self.labels, self.confidence, self.device = labels, confidence, labels.device
        self.shape = (batch, num_classes, height, width)

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        return self.labels[:, first:last].to(torch.int16)

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Refuse: there are none.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "this model gives labels alone: scores of classes, and merging them over windows, scales and flips, need a "
            "file with `--output raw` (semask export)"
        )

    def reader(self, first: int, last: int) -> Reader:
        self.rows(first, last)
        raise AssertionError

    def select(self, image: int) -> LazyScores:
        confidence = None if self.confidence is None else self.confidence[image : image + 1]
        return Decided(self.labels[image : image + 1], confidence, num_classes=self.shape[1])


class Resized(LazyScores):
    """Scores resized to `size` (height, width), bilinearly, without antialiasing and without aligned corners."""

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        # In float32 whatever autocast chose: resized bfloat16 scores tie, and ties decide labels.
        if self.source.shape[2:] == self.size:
            return self.source.rows(first, last).float()
        down = bilinear_taps(self.source.shape[2], self.size[0], first, last)
        return interpolate_rows(self.source.rows(down.top, down.bottom), down, self.size[1])

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the class that is best at all four taps of a pixel.

        It is best between them too, since sums of their scores with equal weights, rounded or not, keep their order.
        """
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.certain_argmax(first, last)
        if isinstance(self.source, InMemory) and height * width > self.size[0] * self.size[1]:
            return super().certain_argmax(first, last)  # more scores to look at than to find
        down, across = bilinear_taps(height, self.size[0], first, last), bilinear_taps(width, self.size[1])
        # both taps of the row agree, then both of the column
        best = self.source.certain_argmax(down.top, down.bottom)
        left, right = (best[:, :, index] for index in across.cells.unbind(1))
        line = left.where(left == right, UNDECIDED)
        above, below = (line[:, index - down.top] for index in down.cells.unbind(1))
        return above.where(above == below, UNDECIDED)

    def reader(self, first: int, last: int) -> Reader:
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.reader(first, last)
        down, across = bilinear_taps(height, self.size[0], first, last), bilinear_taps(width, self.size[1])
        return partial(_read_taps, self.source.reader(down.top, down.bottom), down, across, first)


def _read_taps(read: Reader, down: Taps, across: Taps, first: int, points: SamplePoints) -> Float[Tensor, "n k"]:
    # twice as many pixels along each axis
    row, vertical = down.spread(points.row - first, points.down)
    column, horizontal = across.spread(points.column, points.across)
    return read(SamplePoints(points.image, row, column, vertical, horizontal))


class Crop(LazyScores):
    """The upper left corner of scores, of `size` (height, width): without what padding added."""

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        return self.source.rows(first, last)[..., : self.size[1]]

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        return self.source.certain_argmax(first, last)[..., : self.size[1]]


class HorizontalFlip(LazyScores):
    """Scores of a flipped image, flipped back."""

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        return self.source.rows(first, last).flip(-1)

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        return self.source.certain_argmax(first, last).flip(-1)

    def reader(self, first: int, last: int) -> Reader:
        read, right = self.source.reader(first, last), self.shape[3] - 1
        return lambda points: read(points._replace(column=right - points.column))


class CombineMasks(LazyScores):
    """Σ_q p(class k | q)·p(pixel in mask q): probabilities of queries' classes, and their masks as logits (b q H W).

    Which class is best never follows from the taps: between four pixels a mask can be anything between theirs.
    """

    def __init__(self, classes: Float[Tensor, "b q k"], masks: LazyScores) -> None:
        super().__init__(masks, num_classes=classes.shape[-1])
        self.classes = classes

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        masks = self.source.rows(first, last).float().permute(0, 2, 3, 1).sigmoid()
        with without_autocast(masks.device):
            scores = (masks.flatten(1, 2) @ self.classes).view(*masks.shape[:3], -1)
        return scores.permute(0, 3, 1, 2)

    def reader(self, first: int, last: int) -> Reader:
        return partial(read_pixelwise, partial(self._read, self.source.reader(first, last)))

    def select(self, image: int) -> LazyScores:
        return CombineMasks(self.classes[image : image + 1], self.source.select(image))

    def _read(self, read_masks: Reader, pixels: SamplePoints) -> Float[Tensor, "n k"]:
        masks = read_masks(pixels).sigmoid()
        scores = masks.new_empty(len(masks), self.classes.shape[-1])
        with without_autocast(masks.device):
            for image, classes in enumerate(self.classes):
                # classes weigh the masks of their own image
                here = pixels.image == image
                scores[here] = masks[here] @ classes
        return scores


def resize_lazily(logits: Float[Tensor, "b k h w"], size: Size, *, align_corners: bool = False) -> LazyScores:
    """Return logits resized to `size`, in float32 whatever autocast chose."""
    if align_corners or is_reference():
        return InMemory(resize(logits.float(), size, align_corners=align_corners))
    return Resized(InMemory(logits), size)


def combine_masks_lazily(
    classes: Float[Tensor, "b q k"], mask_logits: Float[Tensor, "b q h w"], size: Size
) -> LazyScores:
    """Return the scores of queries whose masks are resized to `size` as logits; see `CombineMasks`."""
    if is_reference():
        with without_autocast(classes.device):
            return InMemory(torch.einsum("bqk,bqhw->bkhw", classes, resize(mask_logits.float(), size).sigmoid()))
    return CombineMasks(classes, Resized(InMemory(mask_logits), size))


def read_pixelwise(read: Reader, points: SamplePoints) -> Float[Tensor, "n k"]:
    """Read pixels one by one with `read` and sum their scores by the points' weights.

    For scores that are no linear function of their sources.
    """
    (count, tall), wide = points.row.shape, points.column.shape[1]
    # every pixel of every point by itself
    one = points.down.new_ones(count * tall * wide, 1)
    image = points.image.repeat_interleave(tall * wide)
    row = points.row.repeat_interleave(wide, 1).reshape(-1, 1)
    scores = read(SamplePoints(image, row, points.column.repeat(1, tall).reshape(-1, 1), one, one))
    if tall * wide == 1:
        return scores
    # weighted sum of a point's pixels
    weights = (points.down[:, :, None] * points.across[:, None]).reshape(count, 1, -1)
    with without_autocast(scores.device):
        return (weights @ scores.view(count, tall * wide, -1))[:, 0]


def iter_row_blocks(
    lazy: LazyScores, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, int, Float[Tensor, "b k r W"]]]:
    """Yield (first, last, scores) from the top down, about `NUMBERS` scores at a time, or `NUMBERS_ON_GPU`."""
    batch, classes, height, width = lazy.shape
    end = height if last is None else last
    numbers = NUMBERS if lazy.device.type == "cpu" else NUMBERS_ON_GPU
    step = max(1, numbers // max(1, batch * classes * width))
    for start in range(first, end, step):
        stop = min(start + step, end)
        yield start, stop, lazy.rows(start, stop)


def best_class(scores: Float[Tensor, "b k r W"]) -> Integer[Tensor, "b r W"]:
    """Return the class of the highest score of every pixel, the first of equal ones."""
    if scores.device.type != "cpu" or type(scores) is not Tensor:
        return scores.argmax(dim=1)
    # NumPy, which has no bfloat16, searches contiguous numbers several times faster than torch on the CPU.
    return torch.from_numpy(classes_last(scores.detach()).numpy().argmax(-1))


def materialize(lazy: LazyScores, *, device: torch.device | str | None = None) -> Float[Tensor, "b k H W"]:
    """Return all scores as one tensor, on `device`, or where they are computed."""
    if isinstance(lazy, InMemory) and device is None:
        return lazy.scores
    whole: Tensor | None = None
    for first, last, scores in iter_row_blocks(lazy):
        if whole is None:
            whole = scores.new_empty(lazy.shape, device=device)
        whole[:, :, first:last] = scores
    assert whole is not None  # images have at least one row
    return whole
