"""What a file holds, whatever the class table: measured once, judged later, small enough to keep for every file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Integer, Shaped
from torch import Tensor

from semask.data.image import is_palette, probe_image, read_image, read_label, read_orientation
from semask.data.source import Source

MAX_VALUES = 4096
"""Different values in a label file; one with more holds no ids, and is an error."""
SIGNATURE_ROWS = 8
FLAT = 1 / 255
"""A picture whose brightness varies less than this has no signature."""


class PictureFacts(NamedTuple):
    """What decoded pixels say: mean and mean square of every channel in [0, 1], and the picture's signature.

    signature: 64 bits that pictures of one scene share whatever their size, format and quality; None for a picture of
    one brightness, whose signature would say nothing.
    """

    mean: tuple[float, ...]
    square: tuple[float, ...]
    signature: int | None


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


def image_facts(source: Source, *, thorough: bool) -> ImageFacts:
    """Measure an image file; only `thorough` decodes it whole and looks at its pixels.

    Raises:
        ValueError: told by `probe_image` or `read_image`.
    """
    orientation = read_orientation(source)
    if not thorough:
        return ImageFacts(*probe_image(source), orientation)
    image = read_image(source)
    return ImageFacts(image.shape[1], image.shape[2], orientation, picture_facts(image))


def picture_facts(image: Integer[Tensor, "c H W"]) -> PictureFacts:
    """Measure the pixels of a picture of 8 or 16 bit, whose largest value stands for 1."""
    depth = 255 if image.dtype == torch.uint8 else 65535
    counts = [torch.bincount(channel.flatten().int(), minlength=depth + 1).double() for channel in image]
    levels = torch.arange(depth + 1).double() / depth
    total = max(1, image[0].numel())
    mean = tuple(float(count @ levels) / total for count in counts)
    square = tuple(float(count @ levels.square()) / total for count in counts)
    return PictureFacts(mean, square, signature(image.float().mean(0) / depth))


def signature(grey: Shaped[Tensor, "H W"]) -> int | None:
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
