"""Label maps of lazy scores: scores are computed only where neighbouring pixels of the source disagree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from semask.ops.lazy_scores import (
    NUMBERS,
    UNDECIDED,
    Decided,
    LazyScores,
    SamplePoints,
    best_class,
    iter_row_blocks,
)
from semask.ops.reference import is_reference

PIXELS = 2**18
"""Pixels decided at once on the CPU."""
SPARSE = 0.5
"""Up to this share of undecided pixels, scores are read one by one."""


@torch.no_grad()
def label_map(lazy: LazyScores, top: int = 0, bottom: int | None = None) -> UInt8[Tensor, "b r W"]:
    """Return the class of the highest score of every pixel, the first of equal ones, in rows top … bottom - 1.

    Where scores tie but for rounding, it may be another of the tied.

    Raises:
        FloatingPointError: Scores are NaN; their labels would all be of one class.
    """
    batch, classes, height, width = lazy.shape
    bottom = height if bottom is None else bottom
    check_classes(classes)
    if isinstance(lazy, Decided):
        return lazy.labels[:, top:bottom]
    if is_reference():
        scores = torch.cat([scores for _, _, scores in iter_row_blocks(lazy, top, bottom)], dim=2)
        labels = scores.argmax(dim=1)
        _check_nan(scores.isnan().any(1).sum(), labels)
        return labels.to(torch.uint8)
    found = torch.empty((batch, bottom - top, width), dtype=torch.uint8, device=lazy.device)
    wrong = torch.zeros((), dtype=torch.int64, device=lazy.device)
    step = max(1, PIXELS // max(1, batch * width)) if lazy.device.type == "cpu" else height
    for first in range(top, bottom, step):
        last = min(first + step, bottom)
        if lazy.device.type == "cpu":  # on a GPU, the positions of undecided pixels would have to be waited for
            labels = lazy.certain_argmax(first, last)
            undecided = (labels == UNDECIDED).nonzero(as_tuple=True)
            count = len(undecided[0])
            if count <= SPARSE * labels.numel():
                if count:
                    labels[undecided] = _read(lazy, first, last, undecided, wrong)
                found[:, first - top : last - top] = labels
                continue
        # too many are undecided: all scores
        for start, stop, scores in iter_row_blocks(lazy, first, last):
            best = best_class(scores)
            found[:, start - top : stop - top] = best
            wrong += scores.gather(1, best[:, None]).isnan().sum()
    _check_nan(wrong, found)
    return found


def compilable_label_map(
    lazy: Callable[[], LazyScores], whole: Callable[[], Float[Tensor, "b k H W"]]
) -> UInt8[Tensor, "b H W"]:
    """Return the label map of lazy scores; compiled or exported, of whole scores, unchecked, in one graph."""
    if torch.compiler.is_compiling():
        return whole().argmax(dim=1).to(torch.uint8)
    return label_map(lazy())


def check_classes(count: int) -> None:
    """Refuse more classes than a byte holds."""
    if count > 256:
        raise ValueError(f"label maps hold up to 256 classes, these scores have {count}; take their argmax yourself")


def _read(lazy: LazyScores, first: int, last: int, pixels: tuple[Tensor, ...], wrong: Tensor) -> Int16[Tensor, " n"]:
    """Return the labels of pixels, their rows counted from `first`."""
    read, step = lazy.reader(first, last), max(1, NUMBERS // lazy.shape[1])
    labels = []
    for image, row, column in zip(*(part.split(step) for part in pixels), strict=True):
        one = torch.ones(len(row), 1)
        # all classes of these pixels alone
        scores = read(SamplePoints(image, row[:, None] + first, column[:, None], one, one))
        best = scores.detach().numpy().argmax(-1)
        wrong += scores.amax(1).isnan().sum()
        labels.append(torch.from_numpy(best).to(torch.int16))
    return torch.cat(labels)


def _check_nan(wrong: Tensor, labels: Tensor) -> None:
    if wrong:
        raise FloatingPointError(
            f"the scores of {int(wrong)} of {labels.numel()} pixels are NaN: has the training of this model diverged, "
            "or does the image hold values that are NaN?"
        )
