"""Images of a page: a selection of them, made small, and embedded as data URIs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from semask.data.classes import Classes
from semask.inference.colours import overlay
from semask.ops.palette import ERROR_COLOUR, Colour
from semask.structures import IGNORE

MAX_SIDE = 360
"""Longest side of an image in a page [px]."""
WRONG, RIGHT, UNLABELLED = ERROR_COLOUR, (232, 236, 240), (150, 156, 164)
"""Colours of an error map."""
UNKNOWN_COLOUR = (255, 0, 128)
"""Colour of label values outside the class table."""


class GalleryImage(NamedTuple):
    """An image in [0, 1] with truth and prediction as class ids; `title` is best, median or worst."""

    title: str
    name: str
    miou: float
    image: Float[Tensor, "3 H W"]
    truth: Integer[Tensor, "H W"]
    prediction: Integer[Tensor, "H W"]


Exhibit = tuple[GalleryImage, dict[str, str], list[tuple[str, Colour]]]
"""A gallery image in the page: itself, data URIs by their titles, and the names and colours of its classes."""


def choose(scores: Float64[np.ndarray, " n"], count: int) -> list[tuple[int, str]]:
    """Return the indices of up to `count` images each of the best, the median and the worst, with that as their title.

    None comes twice, undefined ones never; few images are shared out. The best and the median come by falling score,
    the worst by rising score.
    """
    ranked = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    each = min(count, -(-len(ranked) // 3))
    worst = ranked[::-1][: min(each, len(ranked) // 2)]
    best = ranked[: min(each, len(ranked) - len(worst))]
    between = [index for index in ranked if index not in best and index not in worst]
    first = max(0, len(between) // 2 - each // 2)
    chosen = (("best", best), ("median", between[first : first + each]), ("worst", worst))
    return [(index, title) for title, indices in chosen for index in indices]


def exhibits(images: Sequence[GalleryImage], classes: Classes) -> list[Exhibit]:
    """Return image, truth, prediction and errors of every gallery image."""
    made = []
    for shown in images:
        truth, prediction = shown.truth, shown.prediction
        frames = {
            "image": image_uri(shown.image),
            "truth": overlay_uri(shown.image, truth, classes, alpha=1.0),
            "prediction": overlay_uri(shown.image, prediction, classes, alpha=1.0),
            "errors": errors_uri(truth, prediction),
        }
        # classes of either map
        ids = torch.cat([truth.flatten().cpu().long(), prediction.flatten().cpu().long()]).unique().tolist()
        legend = [(classes.names[index], classes.colours[index]) for index in ids if 0 <= index < len(classes)]
        made.append((shown, frames, legend))
    return made


def image_uri(image: Float[Tensor, "3 H W"], *, side: int = MAX_SIDE) -> str:
    """Return an image in [0, 1] as a data URI, no side longer than `side`."""
    pixels = (shrink(image, side=side).clamp(0, 1) * 255).round().to(torch.uint8)
    return _uri(pixels.permute(1, 2, 0).numpy(), "JPEG")


def overlay_uri(
    image: Float[Tensor, "3 H W"],
    labels: Integer[Tensor, "H W"],
    classes: Classes,
    *,
    alpha: float,
    side: int = MAX_SIDE,
) -> str:
    """Return an image with the classes' colours over it, `alpha` their share, as a data URI.

    Labels neither a class nor `IGNORE` have a colour of their own.
    """
    small, few = shrink(image, side=side), shrink_labels(labels, side=side).long()
    mixed = overlay(small, few, classes, alpha=alpha)
    unknown = (few != IGNORE) & ((few < 0) | (few >= len(classes)))
    mixed[:, unknown] = torch.tensor(UNKNOWN_COLOUR, dtype=torch.uint8)[:, None]
    return _uri(mixed.permute(1, 2, 0).numpy(), "PNG" if alpha == 1 else "JPEG")


def errors_uri(truth: Integer[Tensor, "H W"], prediction: Integer[Tensor, "H W"], *, side: int = MAX_SIDE) -> str:
    """Return wrong, right and unlabelled pixels in their colours as a data URI."""
    few, guess = (shrink_labels(labels, side=side).long() for labels in (truth, prediction))
    which = torch.where(few == IGNORE, 2, (few == guess).long())
    return _uri(np.array([WRONG, RIGHT, UNLABELLED], np.uint8)[which.numpy()], "PNG")


def matrix_uri(shares: Float[np.ndarray, "rows columns"], colour: tuple[int, int, int]) -> str:
    """Return a matrix of shares in [0, 1] as an image of one colour, clear where the share is 0, a pixel an entry."""
    # opacity is the square root of the share, so that small shares show
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = (255 * np.sqrt(shares.clip(0, 1))).round()
    return _uri(pixels, "PNG")


def shrink(image: Float[Tensor, "c H W"], *, side: int) -> Float[Tensor, "c h w"]:
    """Make an image smaller until no side is longer than `side`, averaging."""
    size = _size(image.shape[-2], image.shape[-1], side)
    image = image.cpu().float()
    return image if size == tuple(image.shape[-2:]) else interpolate(image[None], size, mode="area")[0]


def shrink_labels(labels: Integer[Tensor, "H W"], *, side: int) -> Integer[Tensor, "h w"]:
    """Make labels smaller in the same way, taking the nearest."""
    height, width = _size(labels.shape[0], labels.shape[1], side)
    # middle of each small pixel, in whole numbers
    rows = (torch.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (torch.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    return labels.cpu()[rows[:, None], columns]


def _size(height: int, width: int, side: int) -> tuple[int, int]:
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _uri(pixels: np.ndarray, kind: str) -> str:
    content = BytesIO()
    options = {"quality": 82} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(pixels).save(content, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(content.getvalue()).decode()}"
