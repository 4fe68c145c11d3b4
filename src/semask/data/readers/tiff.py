"""Samples of TIFF files as they are stored, which Pillow converts, spreads or inverts."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from tifffile import PHOTOMETRIC, SAMPLEFORMAT, TiffFile

from semask.data.readers.source import MAX_PIXELS, Source, UnsupportedFile

UPRIGHT = 1
"""The first of TIFF's orientations."""
MAX_PAGES = 64
"""Most pages of a file, but for one that holds a channel per page; each page is parsed to find the first image."""

# errors are reported once, with the file's name; tifffile's own lines go to callers that ask for them
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins so is a TIFF, classic or big."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def has_deep_samples(source: Source) -> bool:
    """Whether the first image has more than 8 bits per sample, or its channels in pages, as OME-TIFF says.

    False where it is broken, whose reader reports why.
    """
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            if tiff.is_ome and len(tiff.pages) > 1:
                return bool(tiff.pages.first.bitspersample > 8 or tiff.series[0].axes == "CYX")
            return bool(tiff.pages.first.bitspersample > 8)
    except Exception:
        return False


class Kind(NamedTuple):
    """Bits per sample, whether 0 is white, and whether Pillow reads the values of a label file."""

    bits: int
    inverted: bool
    pillow: bool


def read_kind(source: Source) -> Kind | None:
    """Kind of the first image's samples; None for broken files, of which Pillow gives the reason."""
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            page: Any = tiff.pages.first
            bits, inverted = page.bitspersample, page.photometric == PHOTOMETRIC.MINISWHITE
            whole = page.sampleformat == SAMPLEFORMAT.UINT and bits in (8, 16) and not inverted
            # without further packages tifffile does not unpack 2 and 4 bits, which Pillow spreads over 0 … 255
            return Kind(bits, inverted, whole or page.samplesperpixel > 1 or bits in (2, 4))
    except Exception:
        return None


def narrow(values: np.ndarray, kind: Kind) -> np.ndarray:
    """The stored values of a file of 2 or 4 bits, from those that Pillow spreads and inverts."""
    largest = 2**kind.bits - 1
    stored = values if values.max(initial=0) <= largest else values // (255 // largest)
    return largest - stored if kind.inverted else stored


def read_header(source: Source) -> tuple[int, bool]:
    """Orientation of the first image, 1 … 8, and whether its samples are indices into a palette.

    Raises:
        ValueError: the file is missing or broken.
    """

    def read(tiff: TiffFile) -> tuple[int, bool]:
        page: Any = tiff.pages.first
        return orientation(page), page.photometric == PHOTOMETRIC.PALETTE

    found: tuple[int, bool] = _opened(source, read)
    return found


def read_samples(source: Source, channels: int) -> np.ndarray:
    """Samples of the first image, c H W, in their own type; the largest is white.

    Raises:
        ValueError: the file is missing, broken or too large, no image of channels, has another number of them, or is
            stored sideways.
    """

    def read(tiff: TiffFile) -> np.ndarray:
        series = _first_series(tiff, max(channels, MAX_PAGES))
        # before decoding, which takes memory by the channel
        refuse_count(series.size // (series.keyframe.imagelength * series.keyframe.imagewidth), channels)
        if orientation(series.keyframe) != UPRIGHT:
            raise UnsupportedFile(
                f"is stored turned or mirrored (orientation {orientation(series.keyframe)}); save it upright"
            )
        samples: np.ndarray = series.asarray(maxworkers=1)
        if series.keyframe.photometric == PHOTOMETRIC.MINISWHITE and samples.dtype.kind in ("u", "b"):
            samples = ~samples  # white is stored as 0
        samples = samples[None] if samples.ndim == 2 else samples
        samples = np.moveaxis(samples, -1, 0) if series.axes[-1] == "S" else samples
        if samples.size != series.size:
            raise UnsupportedFile("a TIFF whose parts declare different sizes; restore or remove the file")
        return samples

    samples: np.ndarray = _opened(source, read)
    return samples


def read_ids(source: Source) -> np.ndarray:
    """Values of a label file, H W, as they are stored, upright: uint8, or int64 where the file has other samples.

    Raises:
        ValueError: the file is missing, broken or too large, no image of one channel, or has fractions.
    """

    def read(tiff: TiffFile) -> np.ndarray:
        series = _first_series(tiff, MAX_PAGES)
        if len(series.shape) != 2:
            raise UnsupportedFile(f"a label of {series.shape} samples ({series.axes}); ids take one channel")
        values: np.ndarray = series.asarray(maxworkers=1)
        if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
            odd = values[~(np.isfinite(values) & (values == np.round(values)))].flat[0]
            raise UnsupportedFile(f"{values.dtype.name} label values such as {odd:g}; ids are whole numbers")
        if values.dtype.kind not in ("b", "i", "u", "f") or np.abs(values.astype(np.float64)).max() > 2**53:
            raise UnsupportedFile(f"{values.dtype.name} label values; ids are whole numbers of up to 32 bits")
        return values.astype(np.uint8 if values.dtype.kind in ("b", "u") and values.dtype.itemsize == 1 else np.int64)

    values: np.ndarray = _opened(source, read)
    # how TIFF's orientations are undone: mirrored first, then quarter turns against the clock
    turns = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
    mirrored, quarters = turns.get(read_header(source)[0], (0, 0))
    return np.ascontiguousarray(np.rot90(values[:, ::-1] if mirrored else values, quarters))


def refuse_count(found: int, channels: int) -> None:
    """Refuse another number of channels than wanted; only grey can be repeated, for colour."""
    if found != channels and (found, channels) != (1, 3):
        raise UnsupportedFile(
            f"{found} channels, but data.channels is {channels}; save it with {channels}, or train with "
            f"--data.channels {found} and as many values of --model.mean and --model.std"
        )


def _opened(source: Source, read: Any) -> Any:
    """The result of `read` for an open TIFF; any failure is a ValueError that names the file."""
    try:
        # files that an OME header names beside this one stay closed
        with source.open("rb") as file, TiffFile(file, _multifile=False) as tiff:
            return read(tiff)
    except UnsupportedFile as error:
        raise ValueError(f"{source}: {error}") from None
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no such file") from error
    except Exception as error:
        # tifffile raises almost anything on broken bytes, and for a codec that is not installed
        raise ValueError(
            f"{source}: unreadable TIFF ({error}); restore the file, or, for a compression that is not "
            "known here, install semask[tiff]"
        ) from error


def orientation(page: Any) -> int:
    """Orientation of a page, 1 … 8."""
    tag = page.tags.get("Orientation")
    return tag.value if tag is not None and tag.value in range(1, 9) else UPRIGHT


def _first_series(tiff: TiffFile, most: int) -> Any:
    """The first image, one page or equal ones; refused, before decoding, as too large or no image of channels."""
    # tifffile parses all pages to group them; this looks for one alone
    with suppress(IndexError):
        _ = tiff.pages[most]
        raise UnsupportedFile(f"a TIFF of more than {most} pages; save one image per file")
    series: Any = tiff.series[0]
    page = series.keyframe
    if len(series.shape) not in {2, 3} or not series.axes.replace("S", "").endswith("YX"):
        shape = "×".join(str(side) for side in series.shape)
        raise UnsupportedFile(
            f"a TIFF of {shape} samples ({series.axes}) is no image of channels; save one image per file"
        )
    # page and series must agree, or memory has no bound
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    if (height, width) != (page.imagelength, page.imagewidth) or not series.size:
        raise UnsupportedFile("a TIFF whose parts declare different sizes; restore or remove the file")
    if height * width > MAX_PIXELS:
        raise UnsupportedFile(
            f"too large ({width}×{height} pixels); at most {MAX_PIXELS} pixels are read; cut it into tiles"
        )
    # a broken file may claim billions of pieces, and each would be looked for
    if len(page.dataoffsets) != math.prod(page.chunked):
        raise UnsupportedFile(
            f"a TIFF of {math.prod(page.chunked)} pieces that holds {len(page.dataoffsets)}; restore the file"
        )
    return series
