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
    """What a confusion matrix says; every score lies in [0, 1] and is nan where it is undefined.

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
        columns = (self.iou.tolist(), self.accuracy.tolist(), self.dice.tolist(), self.pixels.tolist())
        return {
            "miou": null(self.miou),
            "macc": null(self.macc),
            "aacc": null(self.aacc),
            "fwiou": null(self.fwiou),
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
        """Count the pixels of label maps of any integer type; those whose truth is `IGNORE` take no part.

        Raises ValueError for a shape mismatch and for a class id outside [0, num_classes).
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
            device = "cuda" if "nccl" in torch.distributed.get_backend() else "cpu"
            summed = total.matrix.to(device)
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

    Raises ValueError for a class id outside [0, num_classes).
    """
    if not truth.numel():
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=prediction.device)
    truth = _bytes(truth.to(prediction.device), "label")
    if prediction.dtype != torch.uint8:
        prediction = _bytes(torch.where(truth == IGNORE, 0, prediction), "prediction")
    # All pairs of bytes are counted and what is ignored or wrong is sorted out in the small table: several times
    # faster than masks of the pixels.
    codes = torch.add(prediction.to(torch.int32), truth.to(torch.int32), alpha=256).flatten()
    table = torch.bincount(codes, minlength=256 * 256).view(256, 256)
    valid = table[:IGNORE]
    _refuse_outside(valid.sum(1), num_classes, "label")
    _refuse_outside(valid.sum(0), num_classes, "prediction")
    return valid[:num_classes, :num_classes]


def null(value: float) -> float | None:
    """Return a number for JSON, which has none that is undefined."""
    return None if math.isnan(value) else value


def _bytes(values: Integer[Tensor, " ..."], what: str) -> Integer[Tensor, " ..."]:
    """Refuse values that a byte cannot hold."""
    if values.dtype != torch.uint8:
        for value in (int(values.min()), int(values.max())):
            if not 0 <= value <= 255:
                raise _outside(value, int((values == value).sum()), None, what)
    return values


def _refuse_outside(counts: Integer[Tensor, " values"], num_classes: int, what: str) -> None:
    beyond = counts[num_classes:]
    if beyond.any():
        value = int(beyond.nonzero()[0]) + num_classes
        raise _outside(value, int(counts[value]), num_classes, what)


def _outside(value: int, pixels: int, num_classes: int | None, what: str) -> ValueError:
    last = IGNORE - 1 if num_classes is None else num_classes - 1
    return ValueError(
        f"{what} value {value} in {pixels} pixels is no class id: they are 0 to {last}, and {IGNORE} is ignored in "
        "labels; mend the label map or the class count"
    )


def ratio(part: Num[np.ndarray, " ..."], whole: Num[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """Return part / whole, nan where whole is 0."""
    share: np.ndarray = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) != 0)
    return share
