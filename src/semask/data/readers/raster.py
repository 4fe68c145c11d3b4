"""Readers of images as a recipe wants them: RGB, or bands of any number and depth without loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ImageOps
from tifffile import TiffFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from semask.data.readers.image import MAX_PIXELS, UnsupportedFile, open_image, probe_image, read_image
from semask.data.readers.source import Source, as_source
from semask.recipes.recipe import DataRecipe

FULL_SCALE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""Sample types whose range is that of the type; the range of others is known only to the file's author."""
UPRIGHT = 1
"""The first of TIFF's orientations."""

# errors are reported once, with the file's name; tifffile's own lines go to callers that ask for them
logging.getLogger("tifffile").addHandler(logging.NullHandler())

ImageTensor = UInt8[Tensor, "c H W"] | Float[Tensor, "c H W"]


def read_raster(given: str | Source, data: DataRecipe, *, at_least: tuple[int, int] | None = None) -> ImageTensor:
    """Read an image with `data.channels` channels: uint8 where the file has 8 bits, else float32 in [0, 1].

    Three channels are RGB as `read_image` gives them, unless `data.value_range` is set or the file is a TIFF of more
    than 8 bits. Otherwise channels come as they are stored: the samples or pages of a TIFF, the channels of a PNG with
    its alpha. Grey is repeated where three are wanted. Integers of 8 and 16 bit are divided by their type's maximum;
    `data.value_range` sets the values that become 0 and 1 instead, and values beyond are clipped. `at_least` is that of
    `read_image`.

    Raises:
        ValueError: as for `read_image`; or the file has another number of channels, samples of unknown range, or NaN or
            infinite samples.
    """
    source = as_source(given)
    if not _has_bands(source, data):
        return read_image(source, at_least=at_least)
    try:
        stored = (_tiff_samples if _is_tiff(source) else _image_samples)(source, data.channels)
        return _scale(stored.repeat(data.channels // len(stored), axis=0), data.value_range)
    except UnsupportedFile as error:
        raise ValueError(f"{source}: {error}") from None


def probe_raster(given: str | Source, data: DataRecipe) -> tuple[int, int]:
    """Return (height, width) [px] of an image, after making sure that `read_raster` reads it."""
    source = as_source(given)
    if not _has_bands(source, data):
        return probe_image(source)
    _, height, width = read_raster(source, data).shape
    return height, width


def as_rgb(image: ImageTensor) -> ImageTensor:
    """Return the visible part of an image: its first three channels, or its first as grey."""
    return image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)


def check_channels(data: DataRecipe, *statistics: Sequence[float]) -> None:
    """Check the number of channels and the value range.

    Raises:
        ValueError: the number is below 1 or differs from that of the statistics, or the range is empty.
    """
    if data.channels < 1:
        raise ValueError(f"data.channels must be at least 1, got {data.channels}; colour images have 3")
    for values in statistics:
        if len(values) != data.channels:
            raise ValueError(
                f"{data.channels} channels need as many values of --model.mean and --model.std, got {len(values)}; "
                f"`semask doctor` with --data.channels {data.channels} prints those of your images"
            )
    if data.value_range is not None and not data.value_range[0] < data.value_range[1]:
        low, high = data.value_range
        raise ValueError(
            f"data.value_range holds the values that become 0 and 1, got {low:g} {high:g}; give the smaller first"
        )
    if data.kind == "scenes" and (data.channels != 3 or data.value_range is not None):
        raise ValueError("scenes are drawn in RGB; use --data.channels 3 and --data.value-range None")


def _has_bands(source: Source, data: DataRecipe) -> bool:
    """Whether an image is read without Pillow's conversion to RGB of 8 bits."""
    if data.channels != 3 or data.value_range is not None:
        return True
    if not _is_tiff(source):
        return False
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            return bool(tiff.pages.first.bitspersample > 8)
    except Exception:
        return False  # of a broken file nothing is known; its reader reports the reason


def _is_tiff(source: Source) -> bool:
    return source.name.lower().endswith((".tif", ".tiff"))


def _tiff_samples(source: Source, channels: int) -> np.ndarray:
    """Return the samples of a TIFF's first image, c H W, in their own type."""
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            series = tiff.series[0]
            _refuse_layout(series, series.keyframe)
            # before decoding, which takes memory by the channel
            _refuse_count(series.size // (series.keyframe.imagelength * series.keyframe.imagewidth), channels)
            samples: np.ndarray = series.asarray(maxworkers=1)
            last = series.axes[-1] == "S"
    except UnsupportedFile:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no such file") from error
    except Exception as error:
        # tifffile raises almost anything on broken bytes, and for a codec that is not installed
        raise ValueError(
            f"{source}: unreadable TIFF ({error}); restore the file, or, for a compression that is not "
            "known here, install semask[tiff]"
        ) from error
    if samples.ndim == 2:
        return samples[None]
    return np.moveaxis(samples, -1, 0) if last else samples


def _refuse_layout(series: Any, page: Any) -> None:
    """Refuse, before decoding, a file that is no image of channels, is too large or stored sideways."""
    if len(series.shape) not in {2, 3} or not series.axes.replace("S", "").endswith("YX"):
        shape = "×".join(str(side) for side in series.shape)
        raise UnsupportedFile(
            f"a TIFF of {shape} samples ({series.axes}) is no image of channels; save one image per file"
        )
    # page and series must agree, or memory has no bound
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    if (height, width) != (page.imagelength, page.imagewidth) or not height * width:
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
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value != UPRIGHT:
        raise UnsupportedFile(f"is stored turned or mirrored (orientation {orientation.value}); save it upright")


def _image_samples(source: Source, channels: int) -> np.ndarray:
    """Return the channels of an image in another format, c H W, 8 or 16 bit."""
    with open_image(source, MAX_PIXELS) as image:
        if image.format == "PNG":
            image.load()  # Pillow reports broken bytes, but cuts colours of 16 bits down to 8: torchvision decodes
            with source.open("rb") as file:
                content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
            samples: np.ndarray = decode_png(content, ImageReadMode.UNCHANGED).numpy()
        else:
            upright = ImageOps.exif_transpose(image)
            upright = upright if upright.mode in {"L", "RGB", "RGBA", "CMYK"} else upright.convert("RGB")
            samples = np.moveaxis(np.atleast_3d(np.array(upright)), -1, 0)
    _refuse_count(len(samples), channels)
    return samples


def _refuse_count(found: int, channels: int) -> None:
    """Refuse another number of channels than wanted; only grey can be repeated, for colour."""
    if found != channels and (found, channels) != (1, 3):
        raise UnsupportedFile(
            f"{found} channels, but data.channels is {channels}; use --data.channels {found}, with as many values "
            "of --model.mean and --model.std, or correct the file"
        )


def _scale(stored: np.ndarray, value_range: tuple[float, float] | None) -> ImageTensor:
    """Return samples of uint8 without a range as they are, and others in [0, 1]."""
    kind = stored.dtype.name
    if value_range is None and kind == "uint8":
        return torch.from_numpy(np.ascontiguousarray(stored))
    if value_range is None and kind not in FULL_SCALE:
        raise UnsupportedFile(
            f"{kind} samples, whose range is unknown (here {stored.min():g} … {stored.max():g}); give the values that "
            "become 0 and 1 by --data.value-range LOW HIGH"
        )
    # float32 cannot hold all integers of 32 bits
    low, high = value_range or FULL_SCALE[kind]
    values: np.ndarray = stored.astype(np.float64 if stored.dtype.itemsize > 2 else np.float32)
    if invalid := int((~np.isfinite(values)).sum()):
        raise UnsupportedFile(f"{invalid} samples are NaN or infinite; fill them before training")
    return torch.from_numpy(np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32, copy=False))
