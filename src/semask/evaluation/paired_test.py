"""Comparing two systems run by run: each pair shares its seed and so its pictures, and that much cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean and sample standard deviation; NaN for the deviation of a single value."""

    mean: float
    deviation: float


class Difference(NamedTuple):
    """Mean of paired differences with the limits of its 95 % interval, both NaN for a single pair."""

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Return mean and deviation; a ValueError says so when there are no values."""
    if not len(values):
        raise ValueError("there is nothing to take the mean of; give at least one value")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(np.mean(values)), deviation)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours[i] - theirs[i] with Student's interval; a ValueError tells lists of different lengths.

    The interval takes the differences for normally distributed; with three pairs it is 4.3 standard errors wide to
    either side, and honest in that.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"pairs are needed, got {len(ours)} values and {len(theirs)}; run both with the same seeds")
    mean, deviation = spread([a - b for a, b in zip(ours, theirs, strict=True)])
    if len(ours) == 1:
        return Difference(mean, float("nan"), float("nan"))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(ours) - 1)) * deviation / len(ours) ** 0.5
    return Difference(mean, mean - reach, mean + reach)
