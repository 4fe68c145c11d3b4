"""Several sides in turn, round by round: what changes from minute to minute changes for all, so that ratios hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from semask.benchmark.clock import Clock, Work, wall

ROUNDS = 20


class Timings(NamedTuple):
    """How long each side took [s], round by round."""

    seconds: dict[str, tuple[float, ...]]

    def spread(self, side: str) -> Spread:
        """Return the spread of a side's times [s]."""
        return spread(self.seconds[side])

    def ratio(self, side: str, to: str) -> Spread:
        """Return the spread of the rounds' ratios: the time of a side over that of another in the same round."""
        return spread([ours / theirs for ours, theirs in zip(self.seconds[side], self.seconds[to], strict=True)])


def alternate(
    sides: Mapping[str, Work],
    *,
    rounds: int = ROUNDS,
    warmup: int = 2,
    clock: Clock = wall,
    progress: Callable[[str], None] | None = None,
) -> Timings:
    """Run all sides once a round and return their times; each round begins with the side after the last one's first.

    Before the first round every side runs `warmup` times, unmeasured. `progress` is told the side after every run,
    those of the warm-up too.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"at least 1 round and 0 runs of warm-up are needed, got {rounds} and {warmup}")
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for name in rotated(names, number):
            seconds = clock(sides[name])
            if number >= 0:
                taken[name].append(seconds)
            if progress is not None:
                progress(name)
    return Timings({name: tuple(seconds) for name, seconds in taken.items()})


def rotated(names: list[str], number: int) -> list[str]:
    """Return the order of a round."""
    first = number % len(names) if names else 0
    return names[first:] + names[:first]


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
