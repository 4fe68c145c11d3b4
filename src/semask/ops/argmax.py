"""Label maps of scores that come in bands: work is done only where neighbouring pixels do not agree."""

from __future__ import annotations

import torch
from jaxtyping import Int16, UInt8
from torch import Tensor

from semask.ops.lazy_scores import NUMBERS, UNSURE, Bands, Places, best_class, gather, walk
from semask.ops.reference import is_plain

PIXELS = 2**18
"""Pixels decided at once, on a processor."""
SPARSE = 0.5
"""Up to this share of unsure pixels, scores are read one by one."""


@torch.no_grad()
def label_map(bands: Bands) -> UInt8[Tensor, "b H W"]:
    """Return the class of the highest score of every pixel, the first of equal ones.

    Where scores tie but for rounding, it may be another of the tied. A FloatingPointError tells scores that are no
    numbers: labels cannot, and would be of one class.
    """
    check_classes(bands.shape[1])
    if is_plain():
        return _plain_label_map(bands)
    batch, _, height, width = bands.shape
    found = torch.empty((batch, height, width), dtype=torch.uint8, device=bands.device)
    wrong = torch.zeros((), dtype=torch.int64, device=bands.device)
    step = max(1, PIXELS // max(1, batch * width)) if bands.device.type == "cpu" else height
    for first in range(0, height, step):
        last = min(first + step, height)
        _decide(bands, first, last, found[:, first:last], wrong)
    _check_numbers(wrong, found)
    return found


def check_classes(count: int) -> None:
    """Refuse more classes than a byte can tell apart."""
    if count > 256:
        raise ValueError(f"label maps hold up to 256 classes, these scores are of {count}; take their argmax yourself")


def _decide(bands: Bands, first: int, last: int, found: UInt8[Tensor, "b r W"], wrong: Tensor) -> None:
    """Write the labels of rows first … last - 1 to `found`, and add to `wrong` the pixels that have none."""
    if found.device.type == "cpu":  # elsewhere, to look where the unsure pixels are would mean to wait for them
        labels = bands.sure(first, last)
        image, row, column = (labels == UNSURE).nonzero(as_tuple=True)
        if len(image) <= SPARSE * labels.numel():
            if len(image):
                labels[image, row, column] = _read(bands, first, last, (image, row, column), wrong)
            found.copy_(labels)
            return
    for top, bottom, scores in walk(bands, first, last):
        best = best_class(scores)
        found[:, top - first : bottom - first] = best
        wrong += scores.gather(1, best[:, None]).isnan().sum()


def _read(
    bands: Bands, first: int, last: int, pixels: tuple[Tensor, Tensor, Tensor], wrong: Tensor
) -> Int16[Tensor, " n"]:
    """Return the labels of pixels, their rows counted from `first`."""
    read, step = bands.reader(first, last), max(1, NUMBERS // bands.shape[1])
    labels = []
    for image, row, column in zip(*(part.split(step) for part in pixels), strict=True):
        one = torch.ones(len(row), 1)
        scores = read(Places(image, row[:, None] + first, column[:, None], one, one))
        best = scores.detach().numpy().argmax(-1)
        wrong += scores.amax(1).isnan().sum()
        labels.append(torch.from_numpy(best).to(torch.int16))
    return torch.cat(labels)


def _check_numbers(wrong: Tensor, found: Tensor) -> None:
    if wrong:
        raise FloatingPointError(
            f"the scores of {int(wrong)} of {found.numel()} pixels are no numbers: has the training of this model "
            "diverged, or does the image hold values that are no numbers?"
        )


def _plain_label_map(bands: Bands) -> UInt8[Tensor, "b H W"]:
    scores = gather(bands)
    labels = scores.argmax(dim=1)
    _check_numbers(scores.isnan().any(1).sum(), labels)
    return labels.to(torch.uint8)
