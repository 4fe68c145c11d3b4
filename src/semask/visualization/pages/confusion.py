"""The confusion matrix in a page: a picture of it, and the pairs of classes that are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from semask.visualization.pages.picture import matrix

READABLE = 40
"""Classes whose names fit beside the matrix."""
MOST = 20
"""Pairs in the table."""
COLOUR = (47, 111, 222)


class Mistake(NamedTuple):
    """Pixels of one class predicted as another, and their share of all pixels of that class."""

    truth: str
    prediction: str
    share: float
    pixels: int


class ConfusionView(NamedTuple):
    """The matrix as a picture, a pixel an entry; names and, for few classes, cells (row, column, text); mistakes."""

    picture: str
    names: tuple[str, ...]
    readable: bool
    cells: tuple[tuple[int, int, str], ...]
    mistakes: tuple[Mistake, ...]


def confusion_view(confusion: Int64[np.ndarray, "k k"], names: Sequence[str]) -> ConfusionView:
    """Return what to draw of a matrix of pixels whose rows are the truth.

    Raises:
        ValueError: it is no square matrix of as many classes as there are names.
    """
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"a confusion matrix of {confusion.shape} for {len(names)} classes; both must agree")
    shares = row_shares(confusion)
    few = len(names) <= READABLE // 2
    cells = tuple(
        (row, column, f"{100 * shares[row, column]:.0f}")
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True)
    )
    return ConfusionView(
        matrix(shares, COLOUR),
        tuple(names),
        len(names) <= READABLE,
        cells if few else (),
        _mistakes(confusion, shares, names),
    )


def row_shares(confusion: Int64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k k"]:
    """Return the share of each class's pixels that is predicted as each class; 0 for a class without pixels."""
    shares: np.ndarray = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return shares


def _mistakes(confusion: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> tuple[Mistake, ...]:
    wrong = np.where(np.eye(len(names), dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    places = [(int(place) // len(names), int(place) % len(names)) for place in order]
    return tuple(
        Mistake(names[row], names[column], float(shares[row, column]), int(wrong[row, column]))
        for row, column in places
        if wrong[row, column]
    )
