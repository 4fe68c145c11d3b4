"""Label maps as images: palettes, colours, overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from semask.data.classes import Classes
from semask.files import atomic_write
from semask.ops.resize import to_float
from semask.structures import IGNORE

IGNORE_COLOUR = (0, 0, 0)
"""Colour of unlabelled pixels."""
PIXELS = 2**20
"""Pixels painted at once: an image as floats takes twelve bytes a pixel, several times over."""


def numbered_classes(num_classes: int) -> Classes:
    """Return classes called "class 0", "class 1", …, for a model without names."""
    return Classes.from_dict({"classes": [f"class {index}" for index in range(num_classes)]})


def colourise(labels: Integer[Tensor, "H W"], classes: Classes) -> UInt8[Tensor, "3 H W"]:
    """Paint every class in its colour, other values in `IGNORE_COLOUR`."""
    table = torch.tensor([*classes.colours, IGNORE_COLOUR], dtype=torch.uint8)
    ids = labels.cpu().long()
    count = len(classes.colours)
    return table[torch.where((ids >= 0) & (ids < count), ids, count)].permute(2, 0, 1)


def overlay(
    image: UInt8[Tensor, "3 H W"] | Float[Tensor, "3 H W"],
    labels: Integer[Tensor, "H W"],
    classes: Classes,
    *,
    alpha: float = 0.5,
) -> UInt8[Tensor, "3 H W"]:
    """Lay the colours over an image in [0, 1], or of bytes; `alpha` 0 shows the image alone, 1 the colours alone.

    Pixels without a class show the image.

    Raises:
        ValueError: `alpha` is out of range, or the sizes differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of colour and lies in [0, 1], got {alpha}")
    if image.shape[-2:] != labels.shape:
        raise ValueError(f"image {tuple(image.shape)} and labels {tuple(labels.shape)} differ in size")
    mixed = torch.empty(image.shape, dtype=torch.uint8)
    # row block by row block
    step = max(1, PIXELS // labels.shape[1])
    for rows in (slice(first, first + step) for first in range(0, len(labels), step)):
        ids = labels[rows].cpu()
        weight = alpha * ((ids >= 0) & (ids < len(classes.colours))).float()
        shown = to_float(image[:, rows].cpu()).float() * (1 - weight) + colourise(ids, classes) / 255 * weight
        mixed[:, rows] = (shown.clamp(0, 1) * 255).round().to(torch.uint8)
    return mixed


def write_label(path: str | Path, labels: Integer[Tensor, "H W"], classes: Classes) -> None:
    """Write class ids as an 8-bit PNG that carries the classes' colours as its palette.

    Viewers show the colours; programs that read numbers read the ids.
    """
    # ids beyond the classes have the colour of unlabelled pixels
    palette = [channel for colour in classes.colours for channel in colour]
    palette += list(IGNORE_COLOUR) * (IGNORE + 1 - len(classes.colours))
    image = Image.fromarray(labels.cpu().numpy().astype(np.uint8))
    image.putpalette(palette)
    _save(image, Path(path))


def write_image(path: str | Path, image: UInt8[Tensor, "3 H W"]) -> None:
    """Write an RGB image; the suffix decides the format."""
    _save(Image.fromarray(image.cpu().permute(1, 2, 0).numpy()), Path(path))


def _save(image: Image.Image, path: Path) -> None:
    options = {"quality": 92, "subsampling": 0} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    with atomic_write(path) as part:
        image.save(part, format=Image.registered_extensions()[path.suffix.lower()], **options)
