"""Pictures inside a page: small, and part of it as text."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from semask.data.classes import Classes
from semask.structures import IGNORE
from semask.visualization.colours import overlay

MAX_SIDE = 360
"""Longest side of a picture in a page [px]."""
WRONG, RIGHT, UNDECIDED = (214, 39, 40), (232, 236, 240), (150, 156, 164)
"""Colours of a map of errors: predicted wrong, predicted right, no label."""
UNKNOWN_COLOUR = (255, 0, 128)
"""Of label values that the class table does not know."""


def photograph(image: Float[Tensor, "3 H W"], *, side: int = MAX_SIDE) -> str:
    """Return a picture in [0, 1] as a data URI, made smaller where it is larger than `side`."""
    small = shrunk(image, side=side)
    return _uri((small.clamp(0, 1) * 255).round().to(torch.uint8), "JPEG")


def painted(
    image: Float[Tensor, "3 H W"],
    labels: Integer[Tensor, "H W"],
    classes: Classes,
    *,
    alpha: float,
    side: int = MAX_SIDE,
) -> str:
    """Return a picture with the classes' colours over it, `alpha` their share, as a data URI.

    Labels neither a class nor `IGNORE` are told by a colour of their own.
    """
    small, few = shrunk(image, side=side), shrunk_labels(labels, side=side).long()
    mixed = overlay(small, few, classes, alpha=alpha)
    unknown = (few != IGNORE) & ((few < 0) | (few >= len(classes)))
    mixed[:, unknown] = torch.tensor(UNKNOWN_COLOUR, dtype=torch.uint8)[:, None]
    return _uri(mixed, "PNG" if alpha == 1 else "JPEG")


def errors(truth: Integer[Tensor, "H W"], prediction: Integer[Tensor, "H W"], *, side: int = MAX_SIDE) -> str:
    """Return where the prediction is wrong, where right and where there is no truth, as a data URI."""
    few, guess = (shrunk_labels(labels, side=side).long() for labels in (truth, prediction))
    which = torch.where(few == IGNORE, 2, (few == guess).long())
    table = torch.tensor([WRONG, RIGHT, UNDECIDED], dtype=torch.uint8)
    return _uri(table[which].permute(2, 0, 1), "PNG")


def matrix(shares: Float[np.ndarray, "rows columns"], colour: tuple[int, int, int]) -> str:
    """Return a matrix of shares in [0, 1] as a picture of one colour, clear where the share is 0, a pixel an entry."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = (255 * np.sqrt(shares.clip(0, 1))).round()
    return _encoded(Image.fromarray(pixels, "RGBA"), "PNG")


def shrunk(image: Float[Tensor, "c H W"], *, side: int) -> Float[Tensor, "c h w"]:
    """Make an image smaller until no side is longer than `side`, averaging."""
    size = _size(image.shape[-2], image.shape[-1], side)
    if size == tuple(image.shape[-2:]):
        return image.cpu().float()
    return interpolate(image.cpu().float()[None], size, mode="area")[0]


def shrunk_labels(labels: Integer[Tensor, "H W"], *, side: int) -> Integer[Tensor, "h w"]:
    """Make labels smaller in the same way, taking the nearest."""
    height, width = _size(labels.shape[0], labels.shape[1], side)
    rows = (torch.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (torch.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    return labels.cpu()[rows[:, None], columns]


def _size(height: int, width: int, side: int) -> tuple[int, int]:
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _uri(image: UInt8[Tensor, "3 h w"], kind: str) -> str:
    return _encoded(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), kind)


def _encoded(picture: Image.Image, kind: str) -> str:
    content = BytesIO()
    picture.save(content, format=kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{b64encode(content.getvalue()).decode()}"
