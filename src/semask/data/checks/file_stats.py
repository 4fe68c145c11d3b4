"""What a file holds, whatever the class table: measured once, judged later, small enough to keep for every file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from semask.data.readers.image import is_palette, is_see_through, read_label, read_orientation
from semask.data.readers.raster import Picture, probe_picture, read_picture
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

MAX_VALUES = 4096
"""Different values in a label file; one with more holds no ids, and is an error."""
SIGNATURE_ROWS = 8
FLAT = 1 / 255
"""A picture whose brightness varies less than this has no signature."""


class PictureFacts(NamedTuple):
    """What decoded pixels say: mean and mean square of every channel in [0, 1], and the picture's signature.

    signature: 64 bits that pictures of one scene share whatever their size, format and quality; None for a picture of
    one brightness, whose signature would say nothing. highest: value of any channel. see_through: whether the file has
    a fourth channel that was taken for transparency, and is not opaque everywhere.
    """

    mean: tuple[float, ...]
    square: tuple[float, ...]
    signature: int | None
    highest: float = 1.0
    see_through: bool = False


class ImageFacts(NamedTuple):
    """Height and width [px] upright, the EXIF orientation (1 is none), and more if the pixels were looked at."""

    height: int
    width: int
    orientation: int
    picture: PictureFacts | None = None


class LabelFacts(NamedTuple):
    """Height and width [px] upright, the EXIF orientation, whether values are a palette's, and pixels of each value."""

    height: int
    width: int
    orientation: int
    palette: bool
    values: tuple[tuple[int, int], ...]


class Unread(NamedTuple):
    """Why a file could not be read; the message has no file name."""

    message: str


class PairFacts(NamedTuple):
    """What is known of a pair; digests [SHA-256, hexadecimal] are empty for files that are not there."""

    image: ImageFacts | Unread
    label: LabelFacts | Unread
    image_digest: str = ""
    label_digest: str = ""


def image_facts(source: Source, data: DataRecipe, *, thorough: bool) -> ImageFacts:
    """Measure an image file; only `thorough` decodes it whole and looks at its pixels.

    Raises:
        ValueError: told by `probe_picture` or `read_picture`.
    """
    if not thorough:
        return ImageFacts(*probe_picture(source, data), _orientation(source))
    picture = read_picture(source, data)
    seen = picture_facts(picture)._replace(see_through=data.channels == 3 and is_see_through(source))
    return ImageFacts(picture.shape[1], picture.shape[2], _orientation(source), seen)


def _orientation(source: Source) -> int:
    try:
        return read_orientation(source)
    except ValueError:
        return 1  # bands that Pillow does not know; their reader refuses what is turned


def picture_facts(picture: Picture) -> PictureFacts:
    """Measure the pixels of a picture, 8-bit or in [0, 1]."""
    moments = [_moments(channel) for channel in picture]
    scale = 255 if picture.dtype == torch.uint8 else 1
    means, squares = tuple(mean for mean, _ in moments), tuple(square for _, square in moments)
    return PictureFacts(means, squares, signature(picture.float().mean(0) / scale), float(picture.max()) / scale)


def _moments(channel: Shaped[Tensor, "H W"]) -> tuple[float, float]:
    """Return mean and mean square in [0, 1]; of 8 bits exactly, by counting levels."""
    if channel.dtype != torch.uint8:
        values = channel.double()
        return float(values.mean()), float(values.square().mean())
    share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
    levels = torch.arange(256).double() / 255
    return float(share @ levels), float(share @ levels.square())


def signature(grey: Float[Tensor, "H W"]) -> int | None:
    """Return, for 8×9 even cells of a picture in [0, 1], whether each is darker than its right neighbour, as bits.

    Source: the difference hash, Krawetz 2013.
    """
    cells = F.adaptive_avg_pool2d(grey[None, None], (SIGNATURE_ROWS, SIGNATURE_ROWS + 1))[0, 0]
    if cells.max() - cells.min() < FLAT:
        return None
    rising = (cells[:, 1:] > cells[:, :-1]).flatten().tolist()
    return int("".join("1" if bit else "0" for bit in rising), 2)


def label_facts(source: Source) -> LabelFacts:
    """Measure a label file.

    Raises:
        ValueError: told by `read_label`, or there are more different values than any labelling has.
    """
    label = read_label(source).numpy()
    if label.dtype == np.uint8:
        counts = np.bincount(label.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present, counts = np.unique(label, return_counts=True)
    if len(present) > MAX_VALUES:
        raise ValueError(
            f"{len(present)} different values, of {present[0]} … {present[-1]}: no class numbers; "
            "is this a depth map or a photograph? give label files of class numbers"
        )
    values = tuple(zip(present.tolist(), counts.tolist(), strict=True))
    height, width = label.shape
    return LabelFacts(height, width, read_orientation(source), is_palette(source), values)
