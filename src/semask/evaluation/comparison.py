"""Comparisons: of two evaluations image by image, and of two systems run by run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from semask.evaluation.metrics.bootstrap import CONFIDENCE, RESAMPLES, Interval, differences, statistics
from semask.evaluation.metrics.confusion import null
from semask.evaluation.record import Record, check_alike, limits


class Difference(NamedTuple):
    """Mean of paired differences with the limits of its 95 % interval, both NaN for a single pair."""

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


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
        ValueError: the evaluations are of different images, classes or protocols.
    """
    check_alike(a, b)
    found = differences(b.counts, a.counts, resamples=resamples, seed=seed)

    def run(record: Record) -> dict[str, Any]:
        means = {name: value for name, value in record.values["scores"].items() if name not in ("classes", "pixels")}
        return {"recipe": record.title, "path": str(record.path), "scores": means}

    def ends(value: np.ndarray, interval: Interval) -> list[float] | None:
        reach = limits(interval)
        return None if reach is None or null(float(value)) is None else [float(value), *reach]

    # every class's IoU in both, and its difference
    values, interval = found.pop("iou")
    everything = np.ones((1, len(a.names)))
    ours, theirs = (statistics(record.counts, everything)["iou"][0].tolist() for record in (a, b))
    names = [row["name"] for row in a.values["scores"]["classes"]]
    classes = [
        {"name": name, "a": null(one), "b": null(other), "difference": ends(value, Interval(low, high))}
        for name, one, other, value, low, high in zip(names, ours, theirs, values, *interval, strict=True)
    ]
    return {
        "a": run(a),
        "b": run(b),
        "difference": {name: ends(value, reach) for name, (value, reach) in found.items()},
        "classes": classes,
        "images": len(a.names),
        "resamples": resamples,
        "seed": seed,
    }
