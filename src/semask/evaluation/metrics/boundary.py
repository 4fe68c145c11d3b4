"""How well outlines are met: boundary IoU and the boundary F-score, per class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from scipy.spatial import cKDTree

from semask.evaluation.metrics.confusion import ratio
from semask.structures import IGNORE

WIDTH = 0.02
"""Of the bands that boundary IoU compares, as a share of the image's diagonal."""
TOLERANCE = 0.0075
"""How far outlines may lie apart in the F-score, as a share of the image's diagonal."""


class BoundaryScores(NamedTuple):
    """Per class, in [0, 1], nan where neither labels nor predictions have an outline."""

    iou: Float64[np.ndarray, " k"]
    f_score: Float64[np.ndarray, " k"]


class BoundaryCounts(NamedTuple):
    """Pixels per class, summed over images: every field adds up.

    shared, joined: intersection and union of the bands along the outlines of truth and prediction. found of labelled:
    pixels of true outlines with a predicted one within the tolerance; right of predicted: the other way round.
    """

    shared: Int64[np.ndarray, " k"]
    joined: Int64[np.ndarray, " k"]
    found: Int64[np.ndarray, " k"]
    labelled: Int64[np.ndarray, " k"]
    right: Int64[np.ndarray, " k"]
    predicted: Int64[np.ndarray, " k"]

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:  # type: ignore[override]
        return BoundaryCounts(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))

    @classmethod
    def zeros(cls, num_classes: int) -> BoundaryCounts:
        """Return the counts of no image."""
        return cls(*(np.zeros(num_classes, np.int64) for _ in cls._fields))

    def scores(self) -> BoundaryScores:
        """Return the scores of all images counted so far.

        Source: Boundary IoU (arXiv:2103.16562) eq. 3, summed over the data set as semantic segmentation's IoU is;
        F-score: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013, also summed.
        """
        precision, recall = ratio(self.right, self.predicted), ratio(self.found, self.labelled)
        seen = (self.labelled > 0) | (self.predicted > 0)
        p, r = np.nan_to_num(precision), np.nan_to_num(recall)
        f_score = np.where(seen, 2 * p * r / np.maximum(p + r, 1e-300), np.nan)
        return BoundaryScores(ratio(self.shared, self.joined), f_score)


def count_boundaries(
    prediction: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"], num_classes: int
) -> BoundaryCounts:
    """Count the outlines of one image; pixels of truth `IGNORE` take no part in either map.

    A class's band holds its pixels nearer than the width to a pixel of another class, of none, or outside the image
    (by rows or columns, whichever is more: what an erosion by squares takes away). Its outline for the F-score holds
    its pixels beside one of another class; borders of the image and of ignored regions are no outlines.
    """
    prediction = np.where(truth == IGNORE, np.uint8(IGNORE), prediction)
    diagonal = float(np.hypot(*truth.shape))
    width = max(1, round(WIDTH * diagonal))
    near_truth, near_prediction = _band(truth, width), _band(prediction, width)
    shared = _histogram(truth[(truth == prediction) & near_truth & near_prediction], num_classes)
    joined = _histogram(truth[near_truth], num_classes) + _histogram(prediction[near_prediction], num_classes) - shared
    outlines = _outlines(truth), _outlines(prediction)
    found, labelled = _met(outlines[0], outlines[1], max(1.0, TOLERANCE * diagonal), num_classes)
    right, predicted = _met(outlines[1], outlines[0], max(1.0, TOLERANCE * diagonal), num_classes)
    return BoundaryCounts(shared, joined, found, labelled, right, predicted)


def _band(labels: UInt8[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Say which pixels have another value within `width` rows and columns; beyond the image every value is another."""
    padded = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    highest = lowest = padded
    for axis in (0, 1):
        # Beyond its own ring of -1, all that a filter sees is that ring again.
        highest = maximum_filter1d(highest, 2 * width + 1, axis=axis, mode="nearest")
        lowest = minimum_filter1d(lowest, 2 * width + 1, axis=axis, mode="nearest")
    near: np.ndarray = (highest != padded) | (lowest != padded)
    return near[1:-1, 1:-1]


class _Outlines(NamedTuple):
    """Outline pixels, sorted by class: their places (row, column), and where each class begins."""

    places: Int64[np.ndarray, "n 2"]
    classes: UInt8[np.ndarray, " n"]


def _outlines(labels: UInt8[np.ndarray, "H W"]) -> _Outlines:
    known = labels != IGNORE
    edge = np.zeros(labels.shape, bool)
    down = (labels[1:] != labels[:-1]) & known[1:] & known[:-1]
    across = (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    places = np.argwhere(edge)
    return _Outlines(places, labels[edge])


def _met(
    ours: _Outlines, theirs: _Outlines, tolerance: float, num_classes: int
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Return, per class, how many of our pixels have one of theirs within the tolerance, and how many there are."""
    total = _histogram(ours.classes, num_classes)
    met = np.zeros(num_classes, np.int64)
    for number in np.intersect1d(ours.classes, theirs.classes):
        tree = cKDTree(theirs.places[theirs.classes == number])
        distance, _ = tree.query(
            ours.places[ours.classes == number], distance_upper_bound=np.nextafter(tolerance, np.inf)
        )
        met[number] = np.isfinite(distance).sum()
    return met, total


def _histogram(values: UInt8[np.ndarray, " n"], num_classes: int) -> Int64[np.ndarray, " k"]:
    return np.bincount(values, minlength=IGNORE + 1)[:num_classes].astype(np.int64)
