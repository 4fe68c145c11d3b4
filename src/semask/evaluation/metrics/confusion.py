"""One confusion matrix over a whole data set, and the scores that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float, Float64, Integer, Num
from torch import Tensor

from semask.structures import IGNORE


class Scores(NamedTuple):
    """Scores of a confusion matrix, each in [0, 1], and nan where it is undefined.

    iou: intersection over union per class; undefined for a class that neither labels nor predictions hold.
    accuracy: share of a class's labelled pixels that are found; undefined for a class without labels.
    dice: 2·intersection over the sum of labelled and predicted pixels per class, undefined as the IoU is.
    miou, macc, mdice: means over the classes where they are defined. aacc: share of all labelled pixels that are right.
    fwiou: IoU weighed by the classes' shares of the labelled pixels. pixels: labelled pixels per class.

    Source: SeMask's evaluation (mmsegmentation's nan-mean); fwiou: FCN (arXiv:1411.4038) §5.
    """

    miou: float
    macc: float
    aacc: float
    fwiou: float
    mdice: float
    iou: Float[Tensor, " k"]
    accuracy: Float[Tensor, " k"]
    dice: Float[Tensor, " k"]
    pixels: Integer[Tensor, " k"]

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return the scores as JSON values, undefined ones as null; `names` are the classes' names in order."""
        if len(names) != len(self.iou):
            raise ValueError(f"{len(self.iou)} classes were scored, but {len(names)} names were given")
        means = {name: null(getattr(self, name)) for name in ("miou", "macc", "aacc", "fwiou")}
        columns = (self.iou.tolist(), self.accuracy.tolist(), self.dice.tolist(), self.pixels.tolist())
        return {
            **means,
            "dice": null(self.mdice),
            "pixels": int(self.pixels.sum()),
            "classes": [
                {"name": name, "iou": null(iou), "accuracy": null(accuracy), "dice": null(dice), "pixels": pixels}
                for name, iou, accuracy, dice, pixels in zip(names, *columns, strict=True)
            ],
        }


class Confusion:
    """A streaming confusion matrix; rows are the truth, columns the prediction.

    Counts are 64-bit integers, so neither order nor batching nor the number of processes changes them.
    """

    matrix: Integer[Tensor, "k k"]

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu") -> None:
        if not 1 <= num_classes <= IGNORE:
            raise ValueError(f"num_classes must be 1 to {IGNORE}, since label {IGNORE} means ignore; got {num_classes}")
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Integer[Tensor, " ..."], truth: Integer[Tensor, " ..."]) -> None:
        """Count the pixels of label maps of any integer type; pixels of truth `IGNORE` take no part.

        Raises:
            ValueError: the maps differ in size, or a value is no class.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size; "
                "resize the scores to the label's size before taking the best class"
            )
        self.matrix += count_pairs(prediction, truth, self.num_classes).to(self.matrix.device)

    def merge(self, other: Confusion) -> None:
        """Add the counts of another matrix of the same classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge a matrix of {other.num_classes} classes into one of {self.num_classes}")
        self.matrix += other.matrix.to(self.matrix.device)

    def reduce(self) -> Confusion:
        """Return the sum over all processes, on each of them; alone, a copy of this matrix."""
        total = Confusion(self.num_classes, device=self.matrix.device)
        total.merge(self)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # NCCL sums on GPUs only
            summed = total.matrix.to("cuda" if "nccl" in torch.distributed.get_backend() else "cpu")
            torch.distributed.all_reduce(summed)
            total.matrix = summed.to(self.matrix.device)
        return total

    def scores(self) -> Scores:
        """Return the scores of all pixels counted so far."""
        matrix = self.matrix.cpu()
        correct, labelled, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
        # 0/0 is nan in tensors: a class absent from both drops out of the means.
        iou = correct / (labelled + predicted - correct)
        accuracy = correct / labelled
        dice = 2 * correct / (labelled + predicted)
        return Scores(
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(correct.sum() / labelled.sum()).item(),
            fwiou=((iou.nan_to_num() * labelled).sum() / labelled.sum()).item(),
            mdice=dice.nanmean().item(),
            iou=iou,
            accuracy=accuracy,
            dice=dice,
            pixels=labelled,
        )


def count_pairs(
    prediction: Integer[Tensor, " ..."], truth: Integer[Tensor, " ..."], num_classes: int
) -> Integer[Tensor, "k k"]:
    """Return how many pixels of truth i (row) were predicted as j (column); pixels of truth `IGNORE` take no part.

    Raises:
        ValueError: a value is outside [0, num_classes).
    """
    if not truth.numel():
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=prediction.device)
    truth = truth.to(prediction.device)
    if prediction.dtype != torch.uint8:
        prediction = torch.where(truth == IGNORE, 0, prediction)
    # values beyond a byte
    for name, values in (("label", truth), ("prediction", prediction)):
        if values.dtype != torch.uint8:
            for value in (int(values.min()), int(values.max())):
                if not 0 <= value <= 255:
                    raise _unknown_class(name, value, int((values == value).sum()), num_classes)
    # All pairs of bytes are counted and what is ignored or wrong is sorted out in the small table: several times
    # faster than masks of the pixels.
    codes = torch.add(prediction.to(torch.int32), truth.to(torch.int32), alpha=256).flatten()
    valid = torch.bincount(codes, minlength=256 * 256).view(256, 256)[:IGNORE]
    # bytes beyond the classes
    for name, counts in (("label", valid.sum(1)), ("prediction", valid.sum(0))):
        if counts[num_classes:].any():
            value = num_classes + int(counts[num_classes:].nonzero()[0])
            raise _unknown_class(name, value, int(counts[value]), num_classes)
    return valid[:num_classes, :num_classes]


def null(value: float) -> float | None:
    """Return a number for JSON, None for nan."""
    return None if math.isnan(value) else value


def ratio(part: Num[np.ndarray, " ..."], whole: Num[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """Return part / whole, nan where whole is 0."""
    share: np.ndarray = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) != 0)
    return share


def _unknown_class(name: str, value: int, pixels: int, num_classes: int) -> ValueError:
    return ValueError(
        f"{name} value {value} in {pixels} pixels is no class: classes are 0 to {num_classes - 1}, and {IGNORE} is "
        "ignored in labels; fix the label map or the class count"
    )
