"""Scores of images made a band of rows at a time, so that nothing of an image's size times its classes is ever held.

Every kind below answers `rows(first, last)`; they nest: a crop of a resized map of a held tensor. `semask.label_map`
decides them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int16, Integer
from torch import Tensor

from semask.resample import resize

NUMBERS = 2**21
"""Scores in a band: 8 MiB in float32, so that what is done to it finds it in a processor's cache."""
UNSURE = -1
"""In place of a class: only the scores themselves can tell."""


class Places(NamedTuple):
    """Where scores are wanted: each place is a weighted sum of t × u pixels of an image.

    image: its number. row, column: of the pixels. down, across: their weights along both axes.
    """

    image: Int[Tensor, " n"]
    row: Int[Tensor, "n t"]
    column: Int[Tensor, "n u"]
    down: Float[Tensor, "n t"]
    across: Float[Tensor, "n u"]


Reader = Callable[[Places], Float[Tensor, "n k"]]


@runtime_checkable  # for the tests, which check the types in annotations
class Bands(Protocol):
    """Scores of images (b k H W) that are made when they are asked for.

    Rows are asked for from the top down: `first` never decreases, and what lies above it may be gone.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes of rows first … last - 1 as far as they are plain to see, else `UNSURE`."""

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads scores at places within rows first … last - 1."""


class Held(NamedTuple):
    """Scores that are there already."""

    scores: Float[Tensor, "b k H W"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        batch, classes, height, width = self.scores.shape
        return batch, classes, height, width

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""
        return self.scores.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        return self.scores[:, :, first:last]

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes; places whose scores are not all finite are unsure."""
        scores = _classes_last(self.scores[:, :, first:last])
        best = best_class(scores.permute(0, 3, 1, 2)).to(torch.int16)
        return best.where(scores.sum(-1).isfinite(), UNSURE)

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads scores at places within rows first … last - 1."""
        scores = _classes_last(self.scores[:, :, first:last])
        _, height, width, classes = scores.shape
        table = scores.view(-1, classes)

        def read(places: Places) -> Float[Tensor, "n k"]:
            lines = (places.image * height)[:, None] + (places.row - first)
            index = lines[:, :, None] * width + places.column[:, None]
            return _mix(table, index.flatten(1), (places.down[:, :, None] * places.across[:, None]).flatten(1))

        return read


class Resized(NamedTuple):
    """Scores brought to `size` (height, width), bilinearly, without antialiasing and without aligned corners."""

    source: Bands
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        return *self.source.shape[:2], *self.size

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""
        return self.source.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1, in float32 and with the classes last in memory."""
        height, width = self.source.shape[2:]
        # In float32 whatever autocast chose: resized bfloat16 scores tie, and ties decide labels.
        if (height, width) == self.size:
            return self.source.rows(first, last).float()
        down, across = _neighbours(height, self.size[0], first, last), _neighbours(width, self.size[1])
        top, bottom = down.reach
        source = self.source.rows(top, bottom)
        if source.device.type != "cpu":
            return _interpolated(source.float(), down, top, self.size[1])
        # Every pixel is a sum of four of the source's, whose classes lie side by side.
        index, weights = _corners(down, across, width)
        bags = [_mix(table.flatten(0, 1), index - top * width, weights) for table in _classes_last(source)]
        mixed = torch.stack(bags) if len(bags) > 1 else bags[0]
        return mixed.view(len(bags), last - first, self.size[1], -1).permute(0, 3, 1, 2)

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the class that is best at all four pixels which a place lies between.

        It is best between them too, since sums of their scores with equal weights, rounded or not, keep their order.
        """
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.sure(first, last)
        if height * width > self.size[0] * self.size[1]:
            return unsure(self, first, last)  # more to look at than to find
        down, across = _neighbours(height, self.size[0], first, last), _neighbours(width, self.size[1])
        top, bottom = down.reach
        seen = self.source.sure(top, bottom)
        left, right = (seen[:, :, index] for index in across.pixel.unbind(1))
        line = left.where(left == right, UNSURE)
        above, below = (line[:, index - top] for index in down.pixel.unbind(1))
        return above.where(above == below, UNSURE)

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads scores at places within rows first … last - 1."""
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.reader(first, last)
        down, across = _neighbours(height, self.size[0], first, last), _neighbours(width, self.size[1])
        read = self.source.reader(*down.reach)

        def of_source(places: Places) -> Float[Tensor, "n k"]:
            row, vertical = down.between(places.row - first, places.down)
            column, horizontal = across.between(places.column, places.across)
            return read(Places(places.image, row, column, vertical, horizontal))

        return of_source


class Cut(NamedTuple):
    """The upper left corner of scores, of `size` (height, width): what padding added is left out."""

    source: Bands
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        return *self.source.shape[:2], *self.size

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""
        return self.source.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        return self.source.rows(first, last)[..., : self.size[1]]

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes as far as the source is sure of them."""
        return self.source.sure(first, last)[..., : self.size[1]]

    def reader(self, first: int, last: int) -> Reader:
        """Return the source's."""
        return self.source.reader(first, last)


class Mirrored(NamedTuple):
    """Scores of a mirrored image, mirrored back."""

    source: Bands

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        return self.source.shape

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""
        return self.source.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1."""
        return self.source.rows(first, last).flip(-1)

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the best classes as far as the source is sure of them."""
        return self.source.sure(first, last).flip(-1)

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads at the other side."""
        read, right = self.source.reader(first, last), self.shape[3] - 1
        return lambda places: read(places._replace(column=right - places.column))


class Combined(NamedTuple):
    """Σ_q p(class k | q)·p(pixel in mask q): probabilities of queries' classes, and their masks as logits (b q H W)."""

    classes: Float[Tensor, "b q k"]
    masks: Bands

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (b, k, H, W)."""
        batch, _, height, width = self.masks.shape
        return batch, self.classes.shape[-1], height, width

    @property
    def device(self) -> torch.device:
        """Return where scores are made."""
        return self.masks.device

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        """Return the scores of rows first … last - 1, with the classes last in memory."""
        masks = self.masks.rows(first, last).float().permute(0, 2, 3, 1).sigmoid()
        with torch.autocast(masks.device.type, enabled=False):
            scores = (masks.flatten(1, 2) @ self.classes).view(*masks.shape[:3], -1)
        return scores.permute(0, 3, 1, 2)

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return no class: masks between four pixels can be anything between theirs."""
        return unsure(self, first, last)

    def reader(self, first: int, last: int) -> Reader:
        """Return what combines the masks' probabilities at each pixel of a place."""
        read_masks = self.masks.reader(first, last)

        def read(pixels: Places) -> Float[Tensor, "n k"]:
            masks = read_masks(pixels).sigmoid()
            scores = masks.new_empty(len(masks), self.classes.shape[-1])
            for image, classes in enumerate(self.classes):
                here = pixels.image == image
                scores[here] = masks[here] @ classes
            return scores

        return pixelwise(read)


def pixelwise(read: Reader) -> Reader:
    """Return what reads pixels one by one, with a reader of pixels, and sums their scores by the places' weights.

    For scores that are no linear function of what they are made of.
    """

    def summed(places: Places) -> Float[Tensor, "n k"]:
        (count, tall), wide = places.row.shape, places.column.shape[1]
        one = places.down.new_ones(count * tall * wide, 1)
        pixels = Places(
            places.image.repeat_interleave(tall * wide),
            places.row.repeat_interleave(wide, 1).reshape(-1, 1),
            places.column.repeat(1, tall).reshape(-1, 1),
            one,
            one,
        )
        scores = read(pixels)
        if tall * wide == 1:
            return scores
        weights = (places.down[:, :, None] * places.across[:, None]).reshape(count, 1, -1)
        return (weights @ scores.view(count, tall * wide, -1))[:, 0]

    return summed


def unsure(bands: Bands, first: int, last: int) -> Int16[Tensor, "b r W"]:
    """Return the answer of what cannot tell best classes but by the scores."""
    batch, _, _, width = bands.shape
    return torch.full((batch, last - first, width), UNSURE, dtype=torch.int16)


def walk(bands: Bands, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int, Float[Tensor, "b k r W"]]]:
    """Yield (first, last, scores) from the top down, about `NUMBERS` scores at a time."""
    batch, classes, height, width = bands.shape
    end = height if last is None else last
    step = max(1, NUMBERS // max(1, batch * classes * width))
    for start in range(first, end, step):
        stop = min(start + step, end)
        yield start, stop, bands.rows(start, stop)


def best_class(scores: Float[Tensor, "b k r W"]) -> Integer[Tensor, "b r W"]:
    """Return the class of the highest score of every pixel, the first of equal ones."""
    if scores.device.type != "cpu" or type(scores) is not Tensor:
        return scores.argmax(dim=1)
    # NumPy, which knows no bfloat16, looks through neighbouring numbers several times faster than torch on a processor.
    return torch.from_numpy(_classes_last(scores.detach()).numpy().argmax(-1))


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


def _neighbours(length: int, size: int, first: int = 0, last: int | None = None) -> Neighbours:
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


def _classes_last(scores: Float[Tensor, "b k r w"]) -> Float[Tensor, "b r w k"]:
    scores = scores.float()
    last = scores.permute(0, 2, 3, 1)
    if last.is_contiguous() or scores.device.type != "cpu":
        return last.contiguous()
    found = torch.empty_like(last, memory_format=torch.contiguous_format)
    for image, table in zip(scores, found.flatten(1, 2), strict=True):
        lines = image.permute(1, 2, 0)
        # As a matrix, which torch transposes in blocks: several times faster.
        table.copy_(lines.flatten(0, 1) if lines.is_contiguous() else image.contiguous().flatten(1).t())
    return found


def _mix(table: Float[Tensor, "m k"], index: Int[Tensor, "n t"], weights: Float[Tensor, "n t"]) -> Float[Tensor, "n k"]:
    """Return weighted sums of rows of a table: what a bag of embeddings is, and nothing reads rows faster."""
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def _corners(down: Neighbours, across: Neighbours, width: int) -> tuple[Int[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Return the four pixels that each of a grid's lies between, counted row by row of `width`, and their shares."""
    # By long rows of corners side by side: operations on rows of four would take as long as what they prepare.
    upper = torch.tensor([True, True, False, False]).repeat(len(across.pixel))
    lines = down.pixel * width
    index = torch.where(upper, lines[:, :1], lines[:, 1:]) + across.pixel.repeat(1, 2).flatten()
    weights = torch.where(upper, down.share[:, :1], down.share[:, 1:]) * across.share.repeat(1, 2).flatten()
    return index.view(-1, 4), weights.view(-1, 4)


def _interpolated(source: Float[Tensor, "b k r w"], down: Neighbours, top: int, width: int) -> Float[Tensor, "b k R W"]:
    """Return what `Resized.rows` does by operations that a GPU is good at.

    Not by a product of matrices, which it may be told to round (TF32).
    """
    index, share = (part.to(source.device) for part in (down.pixel - top, down.share))
    wide = resize(source, (source.shape[-2], width))
    upper, lower = wide[:, :, index[:, 0]], wide[:, :, index[:, 1]]
    return upper * share[:, :1] + lower * share[:, 1:]
