"""Reading pictures as a recipe wants them: as RGB, or as bands of any number and depth, nothing of which is lost."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ImageOps
from tifffile import TiffFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from semask.data.readers.image import MAX_PIXELS, Refused, opened, probe_image, read_image
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

FULL_SCALE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""Sample types whose range is what they can hold; of others it is known to whoever wrote the file."""
UPRIGHT = 1
"""Of TIFF's orientations, the first."""
TIFF_SUFFIXES = (".tif", ".tiff")

# What is wrong with a file is told once, by name; tifffile's own lines go to whoever asks for them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

ImageTensor = UInt8[Tensor, "c H W"] | Float[Tensor, "c H W"]


def read_raster(source: str | Source, data: DataRecipe, *, at_least: tuple[int, int] | None = None) -> ImageTensor:
    """Read a picture with `data.channels` channels: uint8 where the file has 8 bits, else float32 in [0, 1].

    Three channels are RGB as `read_image` gives them, unless `data.value_range` is set or the file is a TIFF of more
    than 8 bits. Otherwise channels come as they are stored: the samples or pages of a TIFF, the channels of a PNG with
    its alpha. Grey is repeated where three are wanted. Integers of 8 and 16 bit are divided by the largest that fits;
    `data.value_range` says what becomes 0 and 1 instead, and what lies beyond is cut off. `at_least` is that of
    `read_image`, for pictures that it reads.

    Raises:
        ValueError: as for `read_image`; or the file has another number of channels, numbers of unknown range, or places
            that hold no number.
    """
    source = Path(source) if isinstance(source, str) else source
    if not _is_raster(source, data):
        return read_image(source, at_least=at_least)
    try:
        stored = (_tiff_samples if _is_tiff(source) else _image_samples)(source, data.channels)
        return _scaled(stored.repeat(data.channels // len(stored), axis=0), data.value_range)
    except Refused as error:
        raise ValueError(f"{source}: {error}") from None


def probe_raster(source: str | Source, data: DataRecipe) -> tuple[int, int]:
    """Return (height, width) [px] of a picture, having made sure that `read_raster` reads it."""
    source = Path(source) if isinstance(source, str) else source
    if not _is_raster(source, data):
        return probe_image(source)
    _, height, width = read_raster(source, data).shape
    return height, width


def as_rgb(picture: ImageTensor) -> ImageTensor:
    """Return what to show of a picture: its first three channels, or its first as grey."""
    return picture[:3] if picture.shape[0] >= 3 else picture[:1].expand(3, -1, -1)


def check_channels(data: DataRecipe, *statistics: Sequence[float]) -> None:
    """Refuse a count of channels that means nothing or is not that of the statistics, and a range from high to low."""
    if data.channels < 1:
        raise ValueError(f"data.channels must be at least 1, got {data.channels}; pictures in colour have 3")
    for values in statistics:
        if len(values) != data.channels:
            raise ValueError(
                f"{data.channels} channels need as many values of --model.mean and --model.std, got {len(values)}; "
                f"`semask doctor` with --data.channels {data.channels} prints those of your pictures"
            )
    if data.value_range is not None and not data.value_range[0] < data.value_range[1]:
        low, high = data.value_range
        raise ValueError(
            f"data.value_range goes from what becomes 0 to what becomes 1, got {low:g} {high:g}; give the smaller first"
        )
    if data.kind == "scenes" and (data.channels != 3 or data.value_range is not None):
        raise ValueError("scenes are drawn in RGB; say --data.channels 3 and --data.value-range None")


def _is_raster(source: Source, data: DataRecipe) -> bool:
    return data.channels != 3 or data.value_range is not None or (_is_tiff(source) and _is_deep(source))


def _is_tiff(source: Source) -> bool:
    return source.name.lower().endswith(TIFF_SUFFIXES)


def _is_deep(source: Source) -> bool:
    """Whether a TIFF has more than 8 bits per sample; of a broken one nothing is known, its reader will tell."""
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            return bool(tiff.pages.first.bitspersample > 8)
    except Exception:
        return False


def _tiff_samples(source: Source, channels: int) -> np.ndarray:
    """Return the samples of a TIFF's first image, c H W, in its own type."""
    try:
        with source.open("rb") as file, TiffFile(file) as tiff:
            series = tiff.series[0]
            _refuse_layout(series, series.keyframe)
            # Before anything is decoded, which takes memory by the channel.
            _refuse_count(series.size // (series.keyframe.imagelength * series.keyframe.imagewidth), channels)
            samples: np.ndarray = series.asarray(maxworkers=1)
            last = series.axes[-1] == "S"
    except Refused:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no such file") from error
    except Exception as error:
        # Broken bytes make tifffile raise almost anything; it also says so which codec is not installed.
        raise ValueError(
            f"{source}: no TIFF that can be read ({error}); restore the file, or, for a compression that is not "
            "known here, install semask[tiff]"
        ) from error
    if samples.ndim == 2:
        return samples[None]
    return np.moveaxis(samples, -1, 0) if last else samples


def _refuse_layout(series: Any, page: Any) -> None:
    """Refuse, before anything is decoded, what is no picture of channels, is too large or lies on its side."""
    if len(series.shape) not in {2, 3} or not series.axes.replace("S", "").endswith("YX"):
        told = "×".join(str(side) for side in series.shape)
        raise Refused(f"a TIFF of {told} samples ({series.axes}) is no picture of channels; save one picture per file")
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    if (height, width) != (page.imagelength, page.imagewidth) or not height * width:
        raise Refused("a TIFF whose parts say different sizes; restore or remove the file")
    if height * width > MAX_PIXELS:
        raise Refused(f"too large ({width}×{height} pixels); at most {MAX_PIXELS} pixels are read; cut it into tiles")
    # A broken one may claim billions of pieces, each of which would be looked for.
    if len(page.dataoffsets) != math.prod(page.chunked):
        raise Refused(
            f"a TIFF of {math.prod(page.chunked)} pieces that holds {len(page.dataoffsets)}; restore the file"
        )
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value != UPRIGHT:
        raise Refused(f"is stored turned or mirrored (orientation {orientation.value}); save it upright")


def _image_samples(source: Source, channels: int) -> np.ndarray:
    """Return the channels of a picture in another format, c H W, 8 or 16 bit."""
    with opened(source, MAX_PIXELS) as image:
        if image.format == "PNG":
            image.load()  # what is broken is told by Pillow, which cuts colours of 16 bits down to 8
            with source.open("rb") as file:
                content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
            samples: np.ndarray = decode_png(content, ImageReadMode.UNCHANGED).numpy()
        else:
            shown = ImageOps.exif_transpose(image)
            shown = shown if shown.mode in {"L", "RGB", "RGBA", "CMYK"} else shown.convert("RGB")
            samples = np.moveaxis(np.atleast_3d(np.array(shown)), -1, 0)
    _refuse_count(len(samples), channels)
    return samples


def _refuse_count(found: int, channels: int) -> None:
    """Refuse another number of channels than wanted, unless it is grey, which can be repeated, for colour."""
    if found != channels and (found, channels) != (1, 3):
        raise Refused(
            f"{found} channels where data.channels says {channels}; say --data.channels {found}, with as many values "
            "of --model.mean and --model.std, or correct the file"
        )


def _scaled(stored: np.ndarray, value_range: tuple[float, float] | None) -> ImageTensor:
    """Return stored numbers as uint8, if they are and no range is given, or in [0, 1]."""
    kind = stored.dtype.name
    if value_range is None and kind == "uint8":
        return torch.from_numpy(np.ascontiguousarray(stored))
    if value_range is None and kind not in FULL_SCALE:
        raise Refused(
            f"{kind} samples, whose range is unknown (here {stored.min():g} … {stored.max():g}); say which values "
            "become 0 and 1 with --data.value-range LOW HIGH"
        )
    low, high = value_range or FULL_SCALE[kind]
    values: np.ndarray = stored.astype(np.float64 if stored.dtype.itemsize > 2 else np.float32)
    if not np.isfinite(values).all():
        raise Refused(f"{int((~np.isfinite(values)).sum())} samples are no finite numbers; fill them before training")
    return torch.from_numpy(np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32, copy=False))
