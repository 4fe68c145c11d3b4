"""Scores of images made a band of rows at a time, so that nothing of an image's size times its classes is ever held.

Every kind below answers `rows(first, last)`; they nest: a crop of a resized map of a held tensor. `semask.ops.argmax`
decides them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Int16, Integer
from torch import Tensor

from semask.ops.autocast import without_autocast
from semask.ops.bilinear import classes_last, corners, interpolated, mix, neighbours

NUMBERS = 2**21
"""Scores in a band: 8 MiB in float32, so that what is done to it finds it in a processor's cache."""
NUMBERS_ELSEWHERE = 2**24
"""The same on accelerators, where each band costs a dozen calls, however small it is: 64 MiB in float32."""
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

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch, before any rows are asked for."""


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
        scores = classes_last(self.scores[:, :, first:last])
        best = best_class(scores.permute(0, 3, 1, 2)).to(torch.int16)
        return best.where(scores.sum(-1).isfinite(), UNSURE)

    def reader(self, first: int, last: int) -> Reader:
        """Return what reads scores at places within rows first … last - 1."""
        scores = classes_last(self.scores[:, :, first:last])
        _, height, width, classes = scores.shape
        table = scores.view(-1, classes)

        def read(places: Places) -> Float[Tensor, "n k"]:
            lines = (places.image * height)[:, None] + (places.row - first)
            index = lines[:, :, None] * width + places.column[:, None]
            return mix(table, index.flatten(1), (places.down[:, :, None] * places.across[:, None]).flatten(1))

        return read

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch."""
        return Held(self.scores[image : image + 1])


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
        down, across = neighbours(height, self.size[0], first, last), neighbours(width, self.size[1])
        top, bottom = down.reach
        source = self.source.rows(top, bottom)
        if source.device.type != "cpu":
            return interpolated(source.float(), down, top, self.size[1])
        # Every pixel is a sum of four of the source's, whose classes lie side by side.
        index, weights = corners(down, across, width)
        bags = [mix(table.flatten(0, 1), index - top * width, weights) for table in classes_last(source)]
        mixed = torch.stack(bags) if len(bags) > 1 else bags[0]
        return mixed.view(len(bags), last - first, self.size[1], -1).permute(0, 3, 1, 2)

    def sure(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the class that is best at all four pixels which a place lies between.

        It is best between them too, since sums of their scores with equal weights, rounded or not, keep their order.
        """
        height, width = self.source.shape[2:]
        if (height, width) == self.size:
            return self.source.sure(first, last)
        if isinstance(self.source, Held) and height * width > self.size[0] * self.size[1]:
            return unsure(self, first, last)  # more scores to look at than to find
        down, across = neighbours(height, self.size[0], first, last), neighbours(width, self.size[1])
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
        down, across = neighbours(height, self.size[0], first, last), neighbours(width, self.size[1])
        read = self.source.reader(*down.reach)

        def of_source(places: Places) -> Float[Tensor, "n k"]:
            row, vertical = down.between(places.row - first, places.down)
            column, horizontal = across.between(places.column, places.across)
            return read(Places(places.image, row, column, vertical, horizontal))

        return of_source

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch."""
        return Resized(self.source.of(image), self.size)


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

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch."""
        return Cut(self.source.of(image), self.size)


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

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch."""
        return Mirrored(self.source.of(image))


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
        with without_autocast(masks.device):
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
            with without_autocast(masks.device):
                for image, classes in enumerate(self.classes):
                    here = pixels.image == image
                    scores[here] = masks[here] @ classes
            return scores

        return pixelwise(read)

    def of(self, image: int) -> Bands:
        """Return the scores of one image of the batch."""
        return Combined(self.classes[image : image + 1], self.masks.of(image))


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
        with without_autocast(scores.device):
            return (weights @ scores.view(count, tall * wide, -1))[:, 0]

    return summed


def unsure(bands: Bands, first: int, last: int) -> Int16[Tensor, "b r W"]:
    """Return the answer of what cannot tell best classes but by the scores."""
    batch, _, _, width = bands.shape
    return torch.full((batch, last - first, width), UNSURE, dtype=torch.int16)


def walk(bands: Bands, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int, Float[Tensor, "b k r W"]]]:
    """Yield (first, last, scores) from the top down, about `NUMBERS` scores at a time, or `NUMBERS_ELSEWHERE`."""
    batch, classes, height, width = bands.shape
    end = height if last is None else last
    numbers = NUMBERS if bands.device.type == "cpu" else NUMBERS_ELSEWHERE
    step = max(1, numbers // max(1, batch * classes * width))
    for start in range(first, end, step):
        stop = min(start + step, end)
        yield start, stop, bands.rows(start, stop)


def best_class(scores: Float[Tensor, "b k r W"]) -> Integer[Tensor, "b r W"]:
    """Return the class of the highest score of every pixel, the first of equal ones."""
    if scores.device.type != "cpu" or type(scores) is not Tensor:
        return scores.argmax(dim=1)
    # NumPy, which knows no bfloat16, looks through neighbouring numbers several times faster than torch on a processor.
    return torch.from_numpy(classes_last(scores.detach()).numpy().argmax(-1))


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
