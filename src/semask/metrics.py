"""One confusion matrix over a whole data set, and the scores that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed
from jaxtyping import Float, Integer
from torch import Tensor

from semask.structures import IGNORE


class Scores(NamedTuple):
    """What a confusion matrix says; every score lies in [0, 1] and is nan where it is undefined.

    iou: intersection over union per class; undefined for a class that neither labels nor predictions hold.
    accuracy: share of a class's labelled pixels that are found; undefined for a class without labels.
    miou, macc: means over the classes where they are defined. aacc: share of all labelled pixels that are right.
    pixels: labelled pixels per class.

    Source: SeMask's evaluation (mmsegmentation's nan-mean).
    """

    miou: float
    macc: float
    aacc: float
    iou: Float[Tensor, " k"]
    accuracy: Float[Tensor, " k"]
    pixels: Integer[Tensor, " k"]

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return the scores as JSON values, undefined ones as null; `names` are the classes' names in order."""
        if len(names) != len(self.iou):
            raise ValueError(f"{len(self.iou)} classes were scored, but {len(names)} names were given")
        rows = zip(names, self.iou.tolist(), self.accuracy.tolist(), self.pixels.tolist(), strict=True)
        return {
            "miou": _null(self.miou),
            "macc": _null(self.macc),
            "aacc": _null(self.aacc),
            "pixels": int(self.pixels.sum()),
            "classes": [
                {"name": name, "iou": _null(iou), "accuracy": _null(accuracy), "pixels": pixels}
                for name, iou, accuracy, pixels in rows
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
        prediction, truth = prediction.long(), truth.to(prediction.device).long()
        valid = truth != IGNORE
        self._check(truth, valid, "label")
        self._check(prediction, valid, "prediction")
        k = self.num_classes
        # One extra bin collects the ignored pixels: several times faster than picking the valid ones first.
        codes = torch.where(valid, truth * k + prediction, k * k).flatten()
        counts = torch.bincount(codes, minlength=k * k + 1)[: k * k]
        self.matrix += counts.view(k, k).to(self.matrix.device)

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
        return Scores(
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(correct.sum() / labelled.sum()).item(),
            iou=iou,
            accuracy=accuracy,
            pixels=labelled,
        )

    def _check(self, values: Tensor, valid: Tensor, what: str) -> None:
        outside = valid & ((values < 0) | (values >= self.num_classes))
        if outside.any():
            value = int(values[outside][0])
            raise ValueError(
                f"{what} value {value} in {int((values[outside] == value).sum())} pixels is no class id: "
                f"{self.num_classes} classes have ids 0 to {self.num_classes - 1}, and {IGNORE} is ignored in labels; "
                "mend the label map or the class count"
            )


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value
