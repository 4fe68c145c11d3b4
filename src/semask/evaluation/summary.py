"""Scores of classes in a line, and classes that a model never predicts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Integer
from torch import Tensor

from semask.data.checks.class_counts import root_frequency
from semask.evaluation.metrics.confusion import Scores
from semask.recipes import Recipe
from semask.recipes.decoders import MASK_CLASSIFIERS
from semask.text import percent

LISTED = 8
"""Classes in a line."""


def class_line(scores: Scores, names: Sequence[str]) -> str:
    """IoU of every class [%], or of many the lowest."""
    known = [(iou, name) for iou, name in zip(scores.iou.tolist(), names, strict=True) if iou == iou]  # noqa: PLR0124 - nan
    shown = known if len(known) <= LISTED else sorted(known)[:LISTED]
    listed = "  ".join(f"{name} {percent(iou)}" for iou, name in shown)
    return f"{'IoU' if len(shown) == len(known) else 'lowest IoU'}: {listed}"


def never_predicted(matrix: Integer[Tensor, "k k"]) -> list[int]:
    """Classes with labelled pixels that no pixel is predicted as; rows of the matrix are the truth."""
    return ((matrix.sum(1) > 0) & (matrix.sum(0) == 0)).nonzero().flatten().tolist()


def advice(matrix: Integer[Tensor, "k k"], names: Sequence[str], recipe: Recipe) -> str | None:
    """Classes that are predicted nowhere, with their share of the labelled pixels and flags to try, or None."""
    missing = never_predicted(matrix)
    if not missing:
        return None
    pixels = matrix.sum(1)
    shares = (pixels / pixels.sum()).tolist()
    listed = ", ".join(f"{names[index]} {shares[index]:.2%}" for index in missing[:LISTED])
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    flags = []
    if recipe.loss.class_weights is None and recipe.model.decoder.kind not in MASK_CLASSIFIERS:
        weights = root_frequency(pixels.cpu().numpy())
        if len({*weights}) > 1:
            flags.append("--loss.class-weights " + " ".join(f"{each:g}" for each in weights))
    if not recipe.data.rare_crops and recipe.data.kind != "scenes":
        flags.append("--data.rare-crops 0.5")
    flags.append(f"--train.steps {2 * recipe.train.steps}")
    return f"predicted nowhere: {listed}{more} (of the labelled pixels); to train again, try {', '.join(flags)}"
