"""Readers of images and label files: untrusted bytes in, plain tensors out, or a message that names the file."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from semask.data.label_values import pack_colours
from semask.data.readers import png, tiff
from semask.data.readers.source import MAX_PIXELS, Source, Unreadable, UnsupportedFile, as_source, first_bytes

logger = logging.getLogger(__name__)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""The decoders that may run; Pillow has dozens more, seldom used and seldom tested against attacks."""
LOSSY = ("JPEG", "MPO")
"""MPO is Pillow's name of the JPEG files of phones that hold further images."""
NOTED: set[str | None] = set()
"""Formats whose further pages or frames a warning has named."""
GDAL_STARTS = (b"\0\0\0\x0cjP  ", b"\xffO\xffQ", b"EHFA_HEADER_TAG")
"""Beginnings of JPEG 2000 and ERDAS Imagine files, which rasterio reads by region."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
WHITE = (255, 255, 255, 255)
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
ID_MODES = ("1", "L", "P", "I", *SIXTEEN_BIT)
COLOUR_MODES = ("RGB", "RGBA", "LA", "PA")
JPEG_LABEL = (
    "a JPEG label; its compression changes ids near edges; save it as 8-bit greyscale PNG, or, if it is a mask of few "
    'levels of grey, give their ranges in the class table, such as "labels": {"0-127": 0, "128-255": 1}'
)
FEW_BITS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow spreads values of 2 and 4 bits over 0 … 255, by its name for their layout."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values that swap height and width."""
FILLED, LEVELS = 0.25, 16
"""Share of half-transparent pixels, and number of their levels, from which a fourth channel is taken for data."""
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""Exceptions of Pillow's decoders on broken bytes."""


def read_image(
    source: str | Source, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> UInt8[Tensor, "3 H W"]:
    """Read an image as RGB, upright.

    With `at_least` (height, width) [px], a JPEG is decoded at the least of 1, ½, ¼ and ⅛ of its size, rounded up, that
    is not smaller.

    The EXIF orientation is applied, grey is repeated, 16 bit becomes 8 (grey divided by 257, colours by 256),
    transparent pixels show white below them, CMYK and palettes are converted. Of animations the first frame is read.

    Raises:
        ValueError: the file is missing, no image of an allowed format, broken, larger than `max_pixels`, of 32-bit
            pixels, or has a fourth channel of data.
    """
    with open_image(source, max_pixels) as image:
        _refuse_depth(image)
        if at_least is not None and image.format in LOSSY:
            image.draft("RGB", at_least if image.getexif().get(ORIENTATION) in SIDEWAYS else at_least[::-1])
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.array(to_rgb(image))
    # left in the decoder's layout, channels last: torch resizes it three times as fast
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB: 16-bit grey is divided by 257, and transparent pixels show white below them.

    Raises:
        ValueError: the fourth channel holds data.
    """
    if image.mode in SIXTEEN_BIT:
        image = Image.fromarray(np.round(np.array(image) / 257.0).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        _refuse_data(image)
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    # converting would copy an image that is RGB already
    return image if image.mode == "RGB" else image.convert("RGB")


def read_label(
    source: str | Source, *, max_pixels: int = MAX_PIXELS, by_colour: bool = False, lossy: bool = False
) -> Integer[Tensor, "H W"]:
    """Read the values stored in a label file, upright: uint8, int32 (16-bit files), or int64 (colours, other TIFFs).

    Palette files give their indices, as VOC and many tools store ids, or their colours if `by_colour`. Colours #rrggbb
    are `COLOUR` + 0xrrggbb; transparency is left out. Signed TIFFs and those of whole numbers in float are read too.

    Raises:
        ValueError: as for `read_image`, or the file cannot hold ids (CMYK; JPEG unless `lossy`).
    """
    given = as_source(source)
    kind = tiff.read_kind(given) if tiff.is_tiff(first_bytes(given)) else None
    if kind is not None and not kind.pillow:
        return torch.from_numpy(tiff.read_ids(given))
    with open_image(given, max_pixels) as image:
        if image.format in LOSSY and not lossy:
            raise UnsupportedFile(JPEG_LABEL)
        if image.mode not in ID_MODES + COLOUR_MODES:
            raise UnsupportedFile(f"an {image.mode} label; save it as 8-bit greyscale PNG of ids, or in colours as RGB")
        # only before decoding Pillow reports how it spreads grey of 2 and 4 bits
        tiles = getattr(image, "tile", []) if image.format == "PNG" else []
        factor = FEW_BITS.get(tiles[0].args) if tiles else None
        upright = ImageOps.exif_transpose(image)
        if upright.mode in COLOUR_MODES or (by_colour and upright.mode == "P"):
            return torch.from_numpy(pack_colours(np.array(upright.convert("RGB"))))
        values = np.array(upright)
    if factor is not None:
        values //= factor
    if kind is not None and kind.bits < 8:
        values = tiff.narrow(values, kind)
    return torch.from_numpy(values.astype(np.uint8 if values.dtype in (bool, np.uint8) else np.int32))


def read_palette(source: Source) -> UInt8[np.ndarray, "n 3"]:
    """Return the colours of a palette file by their indices; none for other files."""
    with open_image(source, MAX_PIXELS, header_only=True) as image:
        palette = image.getpalette("RGB") if image.mode == "P" else None
        return np.array(palette or [], np.uint8).reshape(-1, 3)


def is_lossy(source: Source) -> bool:
    """Whether a readable file is a JPEG."""
    return first_bytes(source)[:3] == b"\xff\xd8\xff"


def probe_image(source: str | Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) [px] of an image, upright, after making sure that its data is whole.

    Several times faster than `read_image`: a PNG's checksums are verified, a JPEG is decoded at an eighth of its size.

    Raises:
        ValueError: as for `read_image`.
    """
    with open_image(source, max_pixels, header_only=True) as image:
        _refuse_depth(image)
        alpha = "A" in image.getbands()
        if alpha or image.format not in ("PNG", *LOSSY):
            image.load()  # first: it turns a TIFF upright itself
        width, height = image.size
        sideways = _exif_orientation(image) in SIDEWAYS
        if alpha:
            _refuse_data(image)
        elif image.format == "PNG":
            image.verify()
        elif image.format in LOSSY:
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
            image.load()
    return (width, height) if sideways else (height, width)


def header_size(source: Source) -> tuple[int, int]:
    """Return (height, width) [px] of an image, upright, by its header alone: the pixels may be broken.

    Raises:
        ValueError: as for `open_image`.
    """
    with open_image(source, MAX_PIXELS, header_only=True) as image:
        width, height = image.size
        # Pillow turns the size of a TIFF itself
        sideways = image.format != "TIFF" and _exif_orientation(image) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def read_header(source: str | Source) -> tuple[int, bool]:
    """Return the EXIF orientation of a readable image file, 1 … 8 (1 is upright), and whether it has a palette.

    The pixels of palette files are indices into their colours.
    """
    given = as_source(source)
    if tiff.is_tiff(first_bytes(given)):
        return tiff.read_header(given)
    with open_image(given, MAX_PIXELS, header_only=True) as image:
        orientation = _exif_orientation(image)
        return orientation if orientation in range(1, 9) else 1, image.mode == "P"


def has_transparency(source: str | Source) -> bool:
    """Whether a readable image has a fourth channel that is not opaque everywhere."""
    try:
        with open_image(source, MAX_PIXELS) as image:
            return "A" in image.getbands() and int(np.array(image.getchannel("A")).min()) < 255
    except ValueError:
        return False  # channels unknown to Pillow have no transparency


def is_image(path: Path) -> bool:
    """Whether a file claims to be an image of an allowed format, by its suffix or its first bytes."""
    start = first_bytes(path)
    known = start[:8] == png.SIGNATURE or start[:3] == b"\xff\xd8\xff" or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")
    # a folder among images is a zarr store
    known = known or tiff.is_tiff(start) or start.startswith(GDAL_STARTS) or path.is_dir()
    return known or path.suffix.lower() in (*SUFFIXES, ".vrt")


@contextmanager
def open_image(given: str | Source, max_pixels: int, *, header_only: bool = False) -> Iterator[Image.Image]:
    """Open an image of an allowed format and size; `header_only`: its pixels are not decoded.

    Raises:
        ValueError: anything fails in opening or in the block; the message names the file.
    """
    source = as_source(given)
    try:
        with source.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.format == "PNG" and not header_only:
                png.check_pixels(file)
            width, height = image.size
            if width * height > max_pixels:
                raise Image.DecompressionBombError(f"{width}×{height} pixels")
            # a warning once for all files of a format
            if getattr(image, "is_animated", False) and image.format not in {*LOSSY, *NOTED}:
                NOTED.add(image.format)
                text = "%s files with several pages or frames, such as %s: the first is read"
                logger.warning(text, image.format, source)
            yield image
    except Unreadable:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no such file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{source}: too large ({error}); at most {max_pixels} pixels are read; shrink it or raise max_pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{source}: no readable image; allowed formats are {', '.join(FORMATS)}") from error
    except UnsupportedFile as error:
        raise ValueError(f"{source}: {error}") from None
    except DECODER_ERRORS as error:
        raise ValueError(f"{source}: unreadable or truncated image ({error}); restore or remove the file") from error


def _exif_orientation(image: Image.Image) -> int:
    # asking a PNG without EXIF for it would decode the whole image
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    orientation: int = exif.get(ORIENTATION, 1)
    return orientation


def _refuse_depth(image: Image.Image) -> None:
    """Refuse an image whose pixels do not define black and white, by its header, before decoding."""
    if image.mode in ("I", "F"):
        kind = "integer" if image.mode == "I" else "float"
        raise UnsupportedFile(
            f"32-bit {kind} pixels are not supported, as their range is unknown; "
            "scale them and save the image with 8 or 16 bits per channel"
        )


def _refuse_data(image: Image.Image) -> None:
    """Refuse a fourth channel that varies as a band of data does, since compositing would mix it into the colours."""
    counts = np.array(image.getchannel("A").histogram())
    between = counts[1:-1]
    if between.sum() > FILLED * counts.sum() and np.count_nonzero(between) > LEVELS:
        raise UnsupportedFile(
            f"a fourth channel of {np.count_nonzero(counts)} levels, marked as transparency; remove it, or, if it is a "
            "band, train with --data.channels 4 and as many values of --model.mean and --model.std"
        )
