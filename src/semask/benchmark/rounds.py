"""Several sides in turn, round by round: what changes from minute to minute changes for all, so that ratios hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from semask.benchmark.clock import Clock, Work, wall
from semask.benchmark.spread import Spread, spread

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
