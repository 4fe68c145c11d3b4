"""Several cases in turn, round by round: drifts of the machine's speed hit all of them, so that ratios hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

Work = Callable[[], object]
Clock = Callable[[Work], float]
"""A function that runs some work and returns its duration [s]."""


def wall(work: Work, now: Callable[[], float] = time.perf_counter) -> float:
    """The seconds of some work on the CPU by the wall clock, or by another clock `now`."""
    start = now()
    work()
    return now() - start


def cpu_time(work: Work) -> float:
    """The CPU seconds of this process over all its threads; with one thread, the wall clock of an idle machine."""
    return wall(work, time.process_time)


def cuda_events(work: Work) -> float:
    """The seconds between two events on the current GPU's stream, which is empty before and after."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def clock_of(device: torch.device) -> Clock:
    """The device's own clock: CUDA's events on a GPU, else the wall clock."""
    return cuda_events if device.type == "cuda" else wall


class Quantiles(NamedTuple):
    """Median, quartiles, 90th and 99th percentile and range of some measurements, in their own unit."""

    median: float
    q25: float
    q75: float
    p90: float
    p99: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """The quantiles of at least one value, interpolated linearly.

        Raises:
            ValueError: there are no values.
        """
        if not values:
            raise ValueError("there is nothing to take the median of; measure at least once")
        median, q25, q75, p90, p99 = np.percentile(values, [50, 25, 75, 90, 99]).tolist()
        return cls(median, q25, q75, p90, p99, min(values), max(values), len(values))

    def to_dict(self) -> dict[str, float]:
        """The quantiles and the distance between the quartiles as JSON values."""
        return {**self._asdict(), "iqr": self.q75 - self.q25}

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f} … {self.max:.2f}, {self.runs} rounds)"


class Timings(NamedTuple):
    """Durations of every case [s], round by round."""

    seconds: dict[str, tuple[float, ...]]

    def quantiles(self, case: str) -> Quantiles:
        """The quantiles of a case's durations [s]."""
        return Quantiles.of(self.seconds[case])

    def ratio(self, case: str, to: str, work: float = 1.0) -> Quantiles:
        """The quantiles of the ratios of two durations in one round; a run of `case` does `work` times as much."""
        pairs = zip(self.seconds[case], self.seconds[to], strict=True)
        return Quantiles.of([ours / first / work for ours, first in pairs])


def alternate(
    cases: Mapping[str, Work],
    *,
    rounds: int = 20,
    warmup: int = 2,
    clock: Clock = wall,
    progress: Callable[[str], None] = lambda case: None,
) -> Timings:
    """Run every case once a round and return the durations; each round begins with the next case.

    Before the first round every case runs `warmup` times, unmeasured. Every run ends with a call of `progress`.

    Raises:
        ValueError: there are no rounds, or `warmup` is negative.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds must be at least 1 and warmup at least 0, got {rounds} and {warmup}")
    taken: dict[str, list[float]] = {name: [] for name in cases}
    # rounds with negative numbers are the warm-up
    for number in range(-warmup, rounds):
        for name in rotated([*cases], number):
            seconds = clock(cases[name])
            if number >= 0:
                taken[name].append(seconds)
            progress(name)
    return Timings({name: tuple(seconds) for name, seconds in taken.items()})


def rotated(names: list[str], number: int) -> list[str]:
    """The names in the order of a round, which begins one case later than the round before."""
    first = number % max(len(names), 1)
    return names[first:] + names[:first]
