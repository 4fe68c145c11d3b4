"""Comparisons: of two evaluations image by image, and of two systems run by run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from semask.evaluation.metrics.bootstrap import CONFIDENCE, RESAMPLES, Interval, intervals, statistics
from semask.evaluation.metrics.confusion import null
from semask.evaluation.record import Record, check_alike, limits


class Difference(NamedTuple):
    """Mean of paired differences with the limits of its 95 % interval, both NaN for a single pair."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation, NaN for that of a single value.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours[i] - theirs[i], whose runs share a seed and so their images, with Student's interval.

    The interval assumes normally distributed differences; with three pairs it is 4.3 standard errors wide to either
    side.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"pairs are needed, got {len(ours)} values and {len(theirs)}; run both with the same seeds")
    # Student's t of the paired differences
    mean, deviation = spread([a - b for a, b in zip(ours, theirs, strict=True)])
    if len(ours) == 1:
        return Difference(mean, float("nan"), float("nan"))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(ours) - 1)) * deviation / len(ours) ** 0.5
    return Difference(mean, mean - reach, mean + reach)


def compare(a: Record, b: Record, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Return the paired differences b - a of all means and of every class's IoU as JSON values.

    A difference is [value, low, high], the limits of its 95 % interval over resamples of the images, which both share.
    It is null where it is undefined. The interval covers other images, not another training.

    Raises:
        ValueError: the evaluations are of different images, classes or protocols; input scales may differ.
    """
    scales = check_alike(a, b)
    # scores of all images, and resampled differences
    everything = np.ones((1, len(a.names)))
    ours, theirs = statistics(a.counts, everything), statistics(b.counts, everything)
    reaches = intervals(b.counts, a.counts, resamples=resamples, seed=seed)

    def run(record: Record) -> dict[str, Any]:
        means = {name: value for name, value in record.values["scores"].items() if name not in ("classes", "pixels")}
        return {"recipe": record.title, "path": str(record.path), "scores": means}

    def difference(name: str, *index: int) -> list[float] | None:
        value = float((theirs[name][0] - ours[name][0])[index])
        ends = limits(Interval(*(end[index] for end in reaches[name])))
        return None if ends is None or math.isnan(value) else [value, *ends]

    columns = (row["name"] for row in a.values["scores"]["classes"]), ours["iou"][0].tolist(), theirs["iou"][0].tolist()
    return {
        "a": run(a),
        "b": run(b),
        "difference": {name: difference(name) for name in reaches if name != "iou"},
        "classes": [
            {"name": name, "a": null(one), "b": null(other), "difference": difference("iou", index)}
            for index, (name, one, other) in enumerate(zip(*columns, strict=True))
        ],
        "images": len(a.names),
        "input_scale": {key: list(values) for key, values in scales.items()},
        "resamples": resamples,
        "seed": seed,
    }
