"""Pictures with what was predicted of them, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from semask.data.classes import Classes, Colour
from semask.visualization.pages.picture import errors, painted, photograph


class GalleryPicture(NamedTuple):
    """A picture in [0, 1] with truth and prediction as class ids; `title` says why it is shown (best, worst, …)."""

    title: str
    name: str
    miou: float
    image: Float[Tensor, "3 H W"]
    truth: Integer[Tensor, "H W"]
    prediction: Integer[Tensor, "H W"]


class Exhibit(NamedTuple):
    """A picture as it is shown: data URIs by what they are, and the colours of its classes."""

    title: str
    name: str
    miou: float
    frames: tuple[tuple[str, str], ...]
    legend: tuple[tuple[str, Colour], ...]


def exhibits(pictures: Sequence[GalleryPicture], classes: Classes) -> list[Exhibit]:
    """Return image, truth, prediction and errors of every picture."""
    return [_exhibit(picture, classes) for picture in pictures]


def _exhibit(picture: GalleryPicture, classes: Classes) -> Exhibit:
    frames = (
        ("image", photograph(picture.image)),
        ("truth", painted(picture.image, picture.truth, classes, alpha=1.0)),
        ("prediction", painted(picture.image, picture.prediction, classes, alpha=1.0)),
        ("errors", errors(picture.truth, picture.prediction)),
    )
    ids = torch.cat([picture.truth.flatten().cpu().long(), picture.prediction.flatten().cpu().long()]).unique().tolist()
    legend = tuple((classes.names[index], classes.colours[index]) for index in ids if 0 <= index < len(classes))
    return Exhibit(picture.title, picture.name, picture.miou, frames, legend)
