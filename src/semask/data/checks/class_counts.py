"""Frequencies of the classes, and loss weights that balance them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from semask.data.checks.file_stats import LabelStats
from semask.data.classes import UNKNOWN, Classes
from semask.structures import IGNORE

STRAY = 1e-4
"""Share of the labelled pixels up to which a class is taken for stray pixels."""
RARE, RARE_CROPS = 0.05, 0.5
"""Share of the labelled pixels below which a class is rare, and the share of crops around such classes."""


class ClassCounts(NamedTuple):
    """Per class: its pixels, the images that hold it, and all labelled pixels of those images; and ignored pixels."""

    pixels: Int64[np.ndarray, " k"]
    images: Int64[np.ndarray, " k"]
    surroundings: Int64[np.ndarray, " k"]
    ignored: int


def count_classes(labels: Iterable[LabelStats], classes: Classes) -> ClassCounts:
    """Count the classes in labels; values outside the class table are left out."""
    pixels, images, surroundings = (np.zeros(len(classes), np.int64) for _ in range(3))
    ignored = 0
    for label in labels:
        found, unlabelled = class_pixels(label, classes)
        ignored += unlabelled
        pixels += found
        images += found > 0
        surroundings[found > 0] += found.sum()
    return ClassCounts(pixels, images, surroundings, ignored)


def class_pixels(label: LabelStats, classes: Classes) -> tuple[Int64[np.ndarray, " k"], int]:
    """Return the pixels of every class in a label, and its ignored pixels."""
    values, counts = np.array(label.values_for(classes), np.int64).reshape(-1, 2).T
    encoded = classes.encode(values)
    labelled = (encoded != IGNORE) & (encoded != UNKNOWN)
    found = np.bincount(encoded[labelled], counts[labelled], len(classes)).astype(np.int64)
    return found, int(counts[encoded == IGNORE].sum())


# In each of these weights, an absent class has 1.


def inverse_frequency(counts: ClassCounts) -> Float64[np.ndarray, " k"]:
    """Return weights in inverse proportion to each class's pixels, with mean 1."""
    return _to_mean_one(counts.pixels, 1.0 / np.maximum(counts.pixels, 1))


def median_frequency(counts: ClassCounts) -> Float64[np.ndarray, " k"]:
    """Return the median frequency over that of each class, its share of the pixels of images that hold it.

    Source: Eigen and Fergus (arXiv:1411.4734) §6.3.2.
    """
    present = counts.pixels > 0
    if not present.any():
        return np.ones(len(present))
    frequency = counts.pixels / np.maximum(counts.surroundings, 1)
    return np.where(present, np.median(frequency[present]) / np.where(present, frequency, 1.0), 1.0)


def effective_number(counts: ClassCounts, *, beta: float = 0.999) -> Float64[np.ndarray, " k"]:
    """Return weights (1 − β) / (1 − β^n) with mean 1, where n is the number of images that hold the class.

    β lies in [0, 1); near 1 the weights approach the inverse of n. Images are counted because neighbouring pixels are
    not independent samples.

    Source: Cui et al. (arXiv:1901.05555) eq. 2 and §4.
    """
    return _to_mean_one(counts.pixels, (1 - beta) / (1 - beta ** np.maximum(counts.images, 1)))


def root_frequency(pixels: Int64[np.ndarray, " k"], *, limit: float = 10.0) -> tuple[float, ...]:
    """Return √(pixels of the most frequent class / own pixels), up to `limit`, to two decimals; 1 for an absent class.

    Milder than the inverse: rare classes are found, and frequent ones lose little.
    """
    root = np.sqrt(pixels.max() / np.maximum(pixels, 1))
    weights: list[float] = np.where(pixels > 0, np.minimum(root, limit), 1.0).round(2).tolist()
    return tuple(weights)


def counted(pixels: Sequence[int]) -> list[int]:
    """Return the classes that rules look at: a few stray pixels decide nothing."""
    return [index for index, each in enumerate(pixels) if each > STRAY * sum(pixels)]


def rare_weights(pixels: Sequence[int]) -> tuple[float, ...] | None:
    """Return the weights that a run gives its classes by itself; None where none is rare."""
    kept = counted(pixels)
    if not kept or min(pixels[index] for index in kept) >= RARE * sum(pixels):
        return None
    return root_frequency(np.array([each if index in kept else 0 for index, each in enumerate(pixels)]))


def _to_mean_one(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    present = pixels > 0
    if not present.any():
        return np.ones(len(pixels))
    return np.where(present, weights / weights[present].mean(), 1.0)
