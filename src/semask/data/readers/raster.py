"""Readers of images as a recipe wants them: RGB, or any number of channels and depth without loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from semask.data.readers import png, tiff
from semask.data.readers.image import SIXTEEN_BIT, open_image, probe_image, read_image
from semask.data.readers.source import MAX_PIXELS, Source, UnsupportedFile, as_source, first_bytes
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe

FULL_SCALE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""Sample types whose range is that of the type; the range of others is known only to the file's author."""
SAMPLED = 2**18
"""Pixels that are enough to stretch an image for display."""
AS_STORED = ("L", "LA", "RGB", "RGBA", "CMYK", "I", "F", *SIXTEEN_BIT)
"""Pillow's modes whose channels are samples; others, such as palettes, are converted to RGB."""
DEEP = {(16, colour) for colour in png.CHANNELS}
"""Headers of PNG files that Pillow cuts to 8 bits."""

ImageTensor = UInt8[Tensor, "c H W"] | Float[Tensor, "c H W"]


def read_raster(given: str | Source, data: DataRecipe, *, at_least: tuple[int, int] | None = None) -> ImageTensor:
    """Read an image with `data.channels` channels: uint8 where the file has 8 bits, else float32 in [0, 1].

    Three channels are RGB as `read_image` gives them, unless `data.value_range` is set or the file is a TIFF or PNG of
    more than 8 bits. Otherwise channels come as they are stored: the samples or pages of a TIFF, the channels of a PNG
    with its alpha, which three channels leave out where it is opaque. Grey is repeated where three are wanted. Integers
    of 8 and 16 bit are divided by their type's maximum; `data.value_range` sets the values that become 0 and 1 instead,
    and values beyond are clipped. `at_least` is that of `read_image`.

    Raises:
        ValueError: as for `read_image`; or the file has another number of channels, samples of unknown range, or NaN or
            infinite samples.
    """
    source = as_source(given)
    if not _has_bands(source, first_bytes(source), data):
        return read_image(source, at_least=at_least)
    stored = read_stored(source, data)
    try:
        return scale_samples(stored.repeat(data.channels // len(stored), axis=0), data.value_range)
    except UnsupportedFile as error:
        raise ValueError(f"{source}: {error}") from None


def read_stored(source: Source, data: DataRecipe) -> np.ndarray:
    """Return the channels of an image as they are stored, c H W; grey is one channel.

    Raises:
        ValueError: the file cannot be read, or has another number of channels.
    """
    start = first_bytes(source)
    try:
        if tiff.is_tiff(start):
            return tiff.read_samples(source, data.channels)
        if (header := png.read_header(start)) is not None and header[0] >= 8 and header[1] in png.CHANNELS:
            samples = png.read_samples(source)
            return _channels_of(samples, data.channels, alpha=len(samples) in (2, 4))
        with open_image(source, MAX_PIXELS) as image:
            return pillow_samples(image, data.channels)
    except UnsupportedFile as error:
        raise ValueError(f"{source}: {error}") from None


def probe_raster(given: str | Source, data: DataRecipe) -> tuple[int, int]:
    """Return (height, width) [px] of an image, after making sure that `read_raster` reads it."""
    source = as_source(given)
    if not _has_bands(source, first_bytes(source), data):
        return probe_image(source)
    _, height, width = read_raster(source, data).shape
    return height, width


def is_deep(given: str | Source, data: DataRecipe) -> bool:
    """Whether `read_raster` may give an image as floats rather than bytes."""
    source = as_source(given)
    start = first_bytes(source)
    if not _has_bands(source, start, data):
        return False
    header = png.read_header(start)
    return data.value_range is not None or tiff.is_tiff(start) or (header is not None and header[0] == 16)


def as_rgb(image: ImageTensor) -> ImageTensor:
    """Return the visible part of an image: its first three channels, or its first as grey.

    RGB of 8 bits, also as floats, is shown as it is; other images, most of which leave much of their range unused, are
    stretched so that 2 and 98 % of their values become black and white.
    """
    rgb = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    step = max(1, math.isqrt(rgb[0].numel() // SAMPLED))
    values = to_float(rgb[:, ::step, ::step])
    if image.shape[0] == 3 and torch.equal((values * 255).round() / 255, values):
        return rgb
    low, high = np.percentile(values.numpy(), (2, 98))
    if high <= low:
        # a few bright spots on one level
        low, high = values.min(), values.max()
    return rgb if high <= low else ((to_float(rgb) - float(low)) / float(high - low)).clamp(0, 1)


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


def _has_bands(source: Source, start: bytes, data: DataRecipe) -> bool:
    """Whether an image is read without Pillow's conversion to RGB of 8 bits."""
    if data.channels != 3 or data.value_range is not None:
        return True
    return tiff.has_deep_samples(source) if tiff.is_tiff(start) else png.read_header(start) in DEEP


def pillow_samples(image: Image.Image, channels: int) -> np.ndarray:
    """Return the channels of an image of Pillow, c H W, upright, as `read_raster` takes them from its file.

    Raises:
        UnsupportedFile: it has another number of channels.
    """
    upright = ImageOps.exif_transpose(image)
    upright = upright if upright.mode in AS_STORED else upright.convert("RGB")
    samples = np.moveaxis(np.atleast_3d(np.array(upright)), -1, 0)
    return _channels_of(samples, channels, alpha=upright.mode in ("LA", "RGBA"))


def _channels_of(samples: np.ndarray, channels: int, *, alpha: bool) -> np.ndarray:
    """Return as many channels, or one that is repeated; three leave out a last channel that is opaque alpha."""
    if channels == 3 and alpha and (samples[-1] == np.iinfo(samples.dtype).max).all():
        samples = samples[:-1]
    tiff.refuse_count(len(samples), channels)
    return samples


def scale_samples(stored: np.ndarray, value_range: tuple[float, float] | None) -> ImageTensor:
    """Return samples of uint8 without a range as they are, and others in [0, 1]."""
    kind = stored.dtype.name
    if value_range is None and kind == "uint8":
        return torch.from_numpy(np.ascontiguousarray(stored))
    if value_range is None and kind not in FULL_SCALE:
        raise UnsupportedFile(
            f"{kind} samples, whose range is unknown (here {stored.min():g} … {stored.max():g}); save it with 8 or "
            "16 bits, or train with --data.value-range LOW HIGH, the values that become 0 and 1"
        )
    # float32 cannot hold all integers of 32 bits
    low, high = value_range or FULL_SCALE[kind]
    values: np.ndarray = stored.astype(np.float64 if stored.dtype.itemsize > 2 else np.float32)
    if invalid := int((~np.isfinite(values)).sum()):
        raise UnsupportedFile(f"{invalid} samples are NaN or infinite; fill them")
    return torch.from_numpy(np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32, copy=False))
