"""Reading pictures and label files: untrusted bytes in, plain tensors out, or a message that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from semask.data.readers.source import Source, Unreadable

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""The decoders that may run; Pillow has dozens more, seldom used and seldom attacked in tests."""
LOSSY = ("JPEG", "MPO")
"""MPO is what Pillow calls the JPEG files of phones that hold further pictures."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 2**27
"""The largest picture [px] that is decoded; a small file can claim any size."""

WHITE = (255, 255, 255, 255)
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
ID_MODES = ("1", "L", "P", "I", *SIXTEEN_BIT)
SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies values of few bits by, by its name for their layout."""
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values that swap height and width."""
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError)
"""What Pillow's decoders raise on broken bytes."""


class Refused(ValueError):
    """A file is whole, but not of a kind that is read; the message has no file name yet."""


def read_image(
    source: str | Source, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> UInt8[Tensor, "3 H W"]:
    """Read a picture as RGB, upright.

    With `at_least` (height, width) [px], a JPEG is decoded at the least of 1, ½, ¼ and ⅛ of its size, rounded up, that
    is not smaller.

    The EXIF orientation is applied, grey is repeated, 16 bit becomes 8 (grey divided by 257, colours by 256),
    transparent pixels show white below them, CMYK and palettes are converted. Of animations the first frame is read.

    Raises:
        ValueError: the file is missing, no image of an allowed format, broken, larger than `max_pixels`, or of 32-bit
            pixels.
    """
    with opened(source, max_pixels) as image:
        _refuse_depth(image)
        if at_least is not None and image.format in LOSSY:
            turned = image.getexif().get(ORIENTATION) in TURNED
            image.draft("RGB", at_least if turned else at_least[::-1])
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.array(_rgb(image))
    # Left as the decoder wrote it, pixel by pixel: so torch resizes it three times as fast.
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_label(source: str | Source, *, max_pixels: int = MAX_PIXELS) -> Integer[Tensor, "H W"]:
    """Read the values stored in a label file, uint8 or (files of 16 or 32 bit) int32, upright.

    Palette files give their indices: that is how VOC and many tools store ids.

    Raises:
        ValueError: as for `read_image`, or the file cannot hold ids (colours, JPEG).
    """
    with opened(source, max_pixels) as image:
        _refuse_colours(image)
        # Pillow spreads grey of 2 and 4 bits over 0 … 255; before it decodes, it says so.
        tiles = getattr(image, "tile", []) if image.format == "PNG" else []
        spread = SPREAD.get(tiles[0].args) if tiles else None
        values = np.array(ImageOps.exif_transpose(image))
    if spread is not None:
        values //= spread
    return torch.from_numpy(values.astype(np.uint8 if values.dtype in (bool, np.uint8) else np.int32))


def probe_image(source: str | Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) [px] of a picture, upright, having made sure that its data is whole.

    Several times faster than `read_image`: a PNG's checksums are verified, a JPEG is decoded at an eighth of its size.

    Raises:
        ValueError: as for `read_image`.
    """
    with opened(source, max_pixels) as image:
        _refuse_depth(image)
        if image.format not in ("PNG", *LOSSY):
            image.load()  # first: it turns a TIFF upright itself
        width, height = image.size
        # Asking a PNG without EXIF for it would decode the whole picture.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        turned = exif.get(ORIENTATION) in TURNED
        if image.format == "PNG":
            image.verify()
        elif image.format in LOSSY:
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
            image.load()
    return (width, height) if turned else (height, width)


def read_orientation(source: str | Source) -> int:
    """Return how a readable image file says it is to be turned, 1 … 8, as in EXIF; 1, or no word, is upright."""
    with opened(source, MAX_PIXELS) as image:
        # As in probe_image: asking a PNG without EXIF would decode it.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        orientation = exif.get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def is_palette(source: str | Source) -> bool:
    """Whether a readable image file stores indices into a colour palette."""
    with opened(source, MAX_PIXELS) as image:
        return image.mode == "P"


def has_transparency(source: str | Source) -> bool:
    """Whether a readable picture has a fourth channel that shows what lies below it somewhere."""
    try:
        with opened(source, MAX_PIXELS) as image:
            return "A" in image.getbands() and int(np.array(image.getchannel("A")).min()) < 255
    except ValueError:
        return False  # bands that Pillow does not know have no transparency


@contextmanager
def opened(given: str | Source, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image of an allowed format and size; whatever goes wrong in the block is told with the file's name."""
    source = Path(given) if isinstance(given, str) else given
    try:
        with source.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Image.DecompressionBombError(f"{width}×{height} pixels")
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
    except Refused as error:
        raise ValueError(f"{source}: {error}") from None
    except DECODER_ERRORS as error:
        raise ValueError(f"{source}: unreadable or truncated image ({error}); restore or remove the file") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT:
        image = Image.fromarray(np.round(np.array(image) / 257.0).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    # Converting would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_depth(image: Image.Image) -> None:
    """Refuse a picture whose pixels say nothing of black and white; the header tells, nothing is decoded."""
    if image.mode in ("I", "F"):
        kind = "integer" if image.mode == "I" else "float"
        raise Refused(
            f"32-bit {kind} pixels are not supported, as their range is unknown; "
            "scale them and save the picture with 8 or 16 bits per channel"
        )


def _refuse_colours(image: Image.Image) -> None:
    """Refuse a file that cannot hold ids."""
    if image.format in LOSSY:
        raise Refused("a JPEG label; its compression changes ids near edges; save labels as 8-bit greyscale PNG")
    if image.mode in ID_MODES:
        return
    channels = np.array(image.convert("RGB"))
    if (channels == channels[..., :1]).all():
        mend = "its channels are equal: save one of them as 8-bit greyscale PNG"
    else:
        mend = "replace every colour by its class number and save as 8-bit greyscale PNG"
    raise Refused(f"an {image.mode} label of colours where ids are expected; {mend}")
