"""Label maps as images: palettes, colours, overlays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from semask.data.classes import Classes
from semask.files import atomic_write
from semask.structures import IGNORE

IGNORE_COLOUR = (0, 0, 0)
"""Colour of unlabelled pixels."""
BACKGROUND = ("background", "bg")
"""Names of a class that overlays leave clear."""
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
    shown: Collection[int] | None = None,
    outline: int = 0,
    legend: bool = False,
) -> UInt8[Tensor, "3 H W"]:
    """Lay the colours over an image in [0, 1], or of bytes.

    Args:
        image: The image.
        labels: Class ids; pixels without a class show the image.
        classes: Names and colours.
        alpha: Share of colour: 0 shows the image alone, 1 the colours alone.
        shown: Classes that are laid over; None: all.
        outline: Width of lines in full colour on the inner side of regions [px].
        legend: Write the names of the classes in the labels into a corner, where the image has room for them.

    Raises:
        ValueError: `alpha` is out of range, or the sizes differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of colour and lies in [0, 1], got {alpha}")
    if image.shape[-2:] != labels.shape:
        raise ValueError(f"image {tuple(image.shape)} and labels {tuple(labels.shape)} differ in size")
    # by class: the share of the image that shows, and the colour laid over it
    table = torch.tensor([*classes.colours, *[IGNORE_COLOUR] * (IGNORE + 1 - len(classes))], dtype=torch.float32).T
    visible = torch.zeros(IGNORE + 1)
    visible[[*(range(len(classes)) if shown is None else shown)]] = 1.0
    kept, painted = 1 - alpha * visible, alpha * visible * table
    mixed = torch.empty(image.shape, dtype=torch.uint8)
    present = torch.zeros(IGNORE + 1, dtype=torch.bool)
    # row block by row block, with the rows around it that outlines reach
    step = max(1, PIXELS // labels.shape[1])
    for first in range(0, len(labels), step):
        above, last = max(0, first - outline), min(len(labels), first + step)
        wide = labels[above : last + outline].cpu().int()
        wide = torch.where((wide >= 0) & (wide < len(classes)), wide, IGNORE)
        rows = slice(first - above, last - above)
        ids = wide[rows]
        block = image[:, first:last].cpu()
        values = block.float() if block.dtype == torch.uint8 else block.float() * 255
        for channel, colour in zip(values, painted, strict=True):
            channel.mul_(kept[ids]).add_(colour[ids])
        if outline:
            lines = _near_edges(wide, outline)[rows] & (visible[ids] > 0)
            values = torch.where(lines, table[:, ids], values)
        mixed[:, first:last] = values.clamp_(0, 255).round_()
        present |= torch.bincount(ids.flatten(), minlength=IGNORE + 1) > 0
    if legend:
        write_legend(mixed, [index for index in range(len(classes)) if present[index] and visible[index] > 0], classes)
    return mixed


def _near_edges(ids: Integer[Tensor, "h w"], width: int) -> Tensor:
    """Whether a pixel of another class lies within `width` steps along the row or the column."""
    near = torch.zeros_like(ids, dtype=torch.bool)
    for axis in (0, 1):
        differ = ids.diff(dim=axis) != 0
        for step in range(width):
            # an edge lies between two pixels; `step` further pixels on both sides of it are near
            length = differ.shape[axis] - step
            if length > 0:
                near.narrow(axis, 0, length).logical_or_(differ.narrow(axis, step, length))
                near.narrow(axis, 1 + step, length).logical_or_(differ.narrow(axis, 0, length))
    return near


def write_legend(image: UInt8[Tensor, "3 H W"], ids: Sequence[int], classes: Classes) -> None:
    """Write names of classes on their colours into the lower left corner, in place; too small an image has none."""
    height, width = image.shape[-2:]
    size = max(10, min(40, min(height, width) // 24))
    font, gap = ImageFont.load_default(size), size // 2
    names = [classes.names[index] for index in ids]
    wide = round(max((font.getlength(name) for name in names), default=0)) + size + 3 * gap
    tall = round(1.4 * size) * len(ids) + gap
    if not ids or wide > 0.7 * width or tall > 0.7 * height:
        return
    corner = image[:, height - tall :, :wide]
    # a dark ground under white names
    ground = Image.fromarray((corner.float() * 0.35).to(torch.uint8).permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(ground)
    for line, (index, name) in enumerate(zip(ids, names, strict=True)):
        top = gap + round(1.4 * size) * line
        draw.rectangle((gap, top, gap + size, top + size), fill=classes.colours[index], outline=(255, 255, 255))
        draw.text((2 * gap + size, top + size / 2), name, fill=(255, 255, 255), font=font, anchor="lm")
    corner.copy_(torch.from_numpy(np.array(ground)).permute(2, 0, 1))


def foreground(classes: Classes) -> tuple[int, ...]:
    """Classes that an overlay shows: all but the one called background, where there are others."""
    found = tuple(index for index, name in enumerate(classes.names) if name.strip().casefold() not in BACKGROUND)
    return found or tuple(range(len(classes)))


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
