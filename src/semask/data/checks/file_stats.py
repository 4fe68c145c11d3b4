"""Statistics of one file, independent of the class table: measured once, and small enough to keep for every file."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semask.data.classes import Classes
from semask.data.label_values import name_of, pack_colours, runs
from semask.data.readers.image import has_transparency, is_lossy, read_header, read_label, read_palette
from semask.data.readers.raster import ImageTensor, probe_raster, read_raster
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

MAX_VALUES = 4096
"""Different values in a label file; one with more holds no ids, and is an error."""
SIGNATURE_ROWS = 8
FLAT = 1 / 255
"""An image whose brightness varies less than this has no signature."""


class PixelStats(NamedTuple):
    """Statistics of decoded pixels: mean and mean square of every channel in [0, 1], and the image's signature.

    signature: 64 bits that images of one scene share in any size, format and quality; None for an image of one
    brightness. highest: largest value of any channel. transparent: whether the file has a fourth channel that was read
    as transparency, and is not opaque everywhere.
    """

    mean: tuple[float, ...]
    square: tuple[float, ...]
    signature: int | None
    highest: float = 1.0
    transparent: bool = False


class ImageStats(NamedTuple):
    """Height and width [px] upright, the EXIF orientation (1 is upright), and statistics of pixels if decoded."""

    height: int
    width: int
    orientation: int
    pixels: PixelStats | None = None


class StoredRange(NamedTuple):
    """Type of an image's stored samples, and the smallest and largest of them."""

    kind: str
    lowest: float
    highest: float


class LabelStats(NamedTuple):
    """Height and width [px] upright, EXIF orientation, and the pixels of each value.

    palette: for values that index a palette, the colour of each (as a value); lossy: whether the file is a JPEG.
    """

    height: int
    width: int
    orientation: int
    palette: tuple[int, ...]
    values: tuple[tuple[int, int], ...]
    lossy: bool = False

    def values_for(self, classes: Classes) -> tuple[tuple[int, int], ...]:
        """Return the pixels of each value that a class table sees: indices into a palette, or their colours."""
        if not (self.palette and classes.by_colour):
            return self.values
        counts: Counter[int] = Counter()
        for colour, (_, count) in zip(self.palette, self.values, strict=True):
            counts[colour] += count
        return tuple(sorted(counts.items()))


class ReadFailure(NamedTuple):
    """Why a file could not be read; the message has no file name."""

    message: str


class PairStats(NamedTuple):
    """Statistics of a pair; digests [SHA-256, hexadecimal] are empty for missing files."""

    image: ImageStats | ReadFailure
    label: LabelStats | ReadFailure
    image_digest: str = ""
    label_digest: str = ""


def measure_image(source: Source, data: DataRecipe, *, thorough: bool) -> ImageStats:
    """Measure an image file; only `thorough` decodes it whole and measures its pixels.

    Raises:
        ValueError: as for `probe_raster` or `read_raster`.
    """
    image = read_raster(source, data) if thorough else None
    height, width = probe_raster(source, data) if image is None else image.shape[1:]
    try:
        orientation, _ = read_header(source)
    except ValueError:
        orientation = 1  # bands unknown to Pillow; their reader refuses rotated files
    if image is None:
        return ImageStats(height, width, orientation)
    transparent = data.channels == 3 and has_transparency(source)
    return ImageStats(height, width, orientation, measure_pixels(image)._replace(transparent=transparent))


def measure_pixels(image: ImageTensor) -> PixelStats:
    """Measure the pixels of an image, 8-bit or in [0, 1]."""
    means, squares = [], []
    for channel in image:
        if channel.dtype == torch.uint8:
            # exact, by counting the 256 levels
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            levels = torch.arange(256).double() / 255
            means.append(float(share @ levels))
            squares.append(float(share @ levels.square()))
        else:
            means.append(float(channel.double().mean()))
            squares.append(float(channel.double().square().mean()))
    scale = 255 if image.dtype == torch.uint8 else 1
    bits = signature(image.float().mean(0) / scale)
    return PixelStats(tuple(means), tuple(squares), bits, float(image.max()) / scale)


def signature(grey: Float[Tensor, "H W"]) -> int | None:
    """Return the difference hash of an image in [0, 1]: of 8×9 cells, whether each is darker than its right neighbour.

    Source: Krawetz 2013.
    """
    # mean brightness of the cells
    cells = F.adaptive_avg_pool2d(grey[None, None], (SIGNATURE_ROWS, SIGNATURE_ROWS + 1))[0, 0]
    if cells.max() - cells.min() < FLAT:
        return None
    rising = (cells[:, 1:] > cells[:, :-1]).flatten().tolist()
    return int("".join("1" if bit else "0" for bit in rising), 2)


def measure_label(source: Source) -> LabelStats:
    """Measure a label file.

    Raises:
        ValueError: as for `read_label`, or there are more different values than any labelling has.
    """
    label = read_label(source, lossy=True).numpy()
    if label.dtype == np.uint8:
        # many times faster than np.unique, which sorts
        counts = np.bincount(label.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        values, lengths = runs(label)
        present, places = np.unique(values, return_inverse=True)
        counts = np.bincount(places, lengths, len(present)).astype(np.int64)
    if len(present) > MAX_VALUES:
        raise ValueError(
            f"{len(present)} different values, of {name_of(int(present[0]))} … {name_of(int(present[-1]))}: no class "
            "numbers or colours; is this a depth map, a photograph, or drawn with blurred edges? give label files of "
            "class numbers"
        )
    height, width = label.shape
    orientation, palette_file = read_header(source)
    indexed = palette_file and label.dtype == np.uint8
    # indices beyond the palette are shown in black
    colours = np.zeros((256, 3), np.uint8)
    if indexed:
        palette = read_palette(source)
        colours[: len(palette)] = palette
    return LabelStats(
        height,
        width,
        orientation,
        tuple(pack_colours(colours[present]).tolist()) if indexed else (),
        tuple(zip(present.tolist(), counts.tolist(), strict=True)),
        is_lossy(source),
    )
