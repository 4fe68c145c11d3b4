"""Boundary IoU and boundary F-score, per class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from scipy.spatial import cKDTree

from semask.evaluation.metrics.confusion import ratio
from semask.structures import IGNORE

WIDTH = 0.02
"""Width of the strips that boundary IoU compares, as a share of the image's diagonal."""
TOLERANCE = 0.0075
"""Distance of outlines that match in the F-score, at most, as a share of the image's diagonal."""

Outline = tuple[Int64[np.ndarray, "_ 2"], UInt8[np.ndarray, " _"]]
"""Places (row, column) and classes of the pixels of all outlines."""


class BoundaryScores(NamedTuple):
    """Boundary IoU and F-score per class, in [0, 1], nan where neither labels nor predictions have an outline."""

    iou: Float64[np.ndarray, " k"]
    f_score: Float64[np.ndarray, " k"]


class BoundaryCounts(NamedTuple):
    """Pixels per class, summed over images: every field adds up.

    shared, joined: intersection and union of the strips along the outlines of truth and prediction. found of labelled:
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
        precision = np.nan_to_num(ratio(self.right, self.predicted))
        recall = np.nan_to_num(ratio(self.found, self.labelled))
        seen = (self.labelled > 0) | (self.predicted > 0)
        # 1e-300 keeps 0 / 0 out
        f_score = np.where(seen, 2 * precision * recall / np.maximum(precision + recall, 1e-300), np.nan)
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
    # boundary IoU: intersection and union of the strips
    width = max(1, round(WIDTH * diagonal))
    near_truth, near_prediction = _band(truth, width), _band(prediction, width)
    shared = _histogram(truth[(truth == prediction) & near_truth & near_prediction], num_classes)
    joined = _histogram(truth[near_truth], num_classes) + _histogram(prediction[near_prediction], num_classes) - shared
    # F-score: recall and precision of the outlines
    true, predicted, tolerance = _outline(truth), _outline(prediction), max(1.0, TOLERANCE * diagonal)
    recall = _matches(true, predicted, tolerance, num_classes)
    return BoundaryCounts(shared, joined, *recall, *_matches(predicted, true, tolerance, num_classes))


def _band(labels: UInt8[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return the pixels with another value within `width` rows and columns; beyond the image every value is another."""
    padded = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    highest = lowest = padded
    for axis in (0, 1):
        # "nearest" repeats the ring of -1 beyond it
        highest = maximum_filter1d(highest, 2 * width + 1, axis=axis, mode="nearest")
        lowest = minimum_filter1d(lowest, 2 * width + 1, axis=axis, mode="nearest")
    near: np.ndarray = (highest != padded) | (lowest != padded)
    return near[1:-1, 1:-1]


def _outline(labels: UInt8[np.ndarray, "H W"]) -> Outline:
    """Return the pixels beside one of another class."""
    known = labels != IGNORE
    edge = np.zeros(labels.shape, bool)
    down = (labels[1:] != labels[:-1]) & known[1:] & known[:-1]
    across = (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return np.argwhere(edge), labels[edge]


def _matches(
    ours: Outline, theirs: Outline, tolerance: float, num_classes: int
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Return, per class, the number of our pixels with one of theirs within the tolerance, and of all our pixels."""
    (places, classes), (their_places, their_classes) = ours, theirs
    met = np.zeros(num_classes, np.int64)
    for number in np.intersect1d(classes, their_classes):
        tree = cKDTree(their_places[their_classes == number])
        # the bound excludes itself
        distance, _ = tree.query(places[classes == number], distance_upper_bound=np.nextafter(tolerance, np.inf))
        met[number] = np.isfinite(distance).sum()
    return met, _histogram(classes, num_classes)


def _histogram(values: UInt8[np.ndarray, " n"], num_classes: int) -> Int64[np.ndarray, " k"]:
    return np.bincount(values, minlength=IGNORE + 1)[:num_classes].astype(np.int64)
