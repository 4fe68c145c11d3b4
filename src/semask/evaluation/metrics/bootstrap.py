"""Bootstrap intervals of scores, by resampling the images that they were measured on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from semask.evaluation.metrics.confusion import ratio

RESAMPLES = 1000
CONFIDENCE = 0.95


class ImageCounts(NamedTuple):
    """Pixels of every image and class: correct, predicted and labelled; ignored pixels are in none of them."""

    intersection: Int64[np.ndarray, "n k"]
    predicted: Int64[np.ndarray, "n k"]
    labelled: Int64[np.ndarray, "n k"]

    def miou(self) -> Float64[np.ndarray, " n"]:
        """Return the mean IoU of every image over its labelled and predicted classes; nan for one without labels."""
        return nan_mean(ratio(self.intersection, self.labelled + self.predicted - self.intersection))


class Interval(NamedTuple):
    """The limits of a 95 % interval, nan where it is undefined."""

    low: Float64[np.ndarray, " ..."]
    high: Float64[np.ndarray, " ..."]


def statistics(counts: ImageCounts, weights: Float64[np.ndarray, "r n"]) -> dict[str, np.ndarray]:
    """Return mIoU, mAcc, aAcc, fwIoU and dice (r) and every class's IoU (r k) of weighed sums over the images."""
    correct, predicted, labelled = (weights @ part.astype(np.float64) for part in counts)
    # nan where a class is absent, which leaves the means
    iou, accuracy = ratio(correct, labelled + predicted - correct), ratio(correct, labelled)
    total = labelled.sum(1)
    return {
        "miou": nan_mean(iou),
        "macc": nan_mean(accuracy),
        "aacc": ratio(correct.sum(1), total),
        "fwiou": ratio((np.nan_to_num(iou) * labelled).sum(1), total),
        "dice": nan_mean(ratio(2 * correct, labelled + predicted)),
        "iou": iou,
    }


def intervals(
    counts: ImageCounts, minus: ImageCounts | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95 % intervals of all `statistics` by the percentiles of bootstrap resamples of the images.

    They cover other images of the same kind, not another training. One image has none: nan. With `minus` they are of
    paired differences: both counts share each resample.

    Raises:
        ValueError: the counts differ in shape, or there are no resamples.
    """
    if resamples < 1:
        raise ValueError(f"an interval needs at least 1 resample, 1000 are usual; got {resamples}")
    shape = counts.labelled.shape
    if minus is not None and minus.labelled.shape != shape:
        raise ValueError(
            f"paired differences need the same images and classes, got {shape} and {minus.labelled.shape} of them"
        )
    images = shape[0]
    # how often each resample holds each image
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    found = statistics(counts, weights.astype(np.float64))
    if minus is not None:
        others = statistics(minus, weights.astype(np.float64))
        found = {name: values - others[name] for name, values in found.items()}
    # central percentiles; for a class in no resample there are none, and NumPy would warn
    tails = (1 - CONFIDENCE) / 2
    limits = {}
    for name, values in found.items():
        defined = np.isfinite(values).any(axis=0) & (images > 1)
        low, high = np.nanquantile(np.where(defined, values, 0.0), [tails, 1 - tails], axis=0)
        limits[name] = Interval(np.where(defined, low, np.nan), np.where(defined, high, np.nan))
    return limits


def nan_mean(values: Float64[np.ndarray, "r k"]) -> Float64[np.ndarray, " r"]:
    """Return the mean of every row over its defined values; nan, without a warning, for a row without any."""
    return ratio(np.nansum(values, axis=1), np.isfinite(values).sum(1))
