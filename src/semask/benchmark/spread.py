"""A row of measurements in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Median, quartiles, 90th and 99th percentile, and the ends of some measurements, in their own unit."""

    median: float
    quarter: float
    three_quarters: float
    p90: float
    p99: float
    least: float
    greatest: float
    runs: int

    @property
    def iqr(self) -> float:
        """Return the distance between the quartiles."""
        return self.three_quarters - self.quarter

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} … {self.greatest:.2f}, {self.runs} rounds)"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value; between neighbours, percentiles are interpolated linearly."""
    if not values:
        raise ValueError("there is nothing to take the median of; measure at least once")
    ordered = sorted(values)
    median, quarter, three_quarters, p90, p99 = (_percentile(ordered, share) for share in (0.5, 0.25, 0.75, 0.9, 0.99))
    return Spread(median, quarter, three_quarters, p90, p99, ordered[0], ordered[-1], len(ordered))


def _percentile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
