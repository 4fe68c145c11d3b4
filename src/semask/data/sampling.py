"""Which picture a draw shows, and how often; the random streams that decide it and all that follows.

Every number here is a function of the seed and of what it is drawn for, so that a resumed run, another number of
workers or of processes draws the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from semask.data.checks.file_stats import LabelStats
from semask.data.checks.scan import scan
from semask.data.classes import Classes
from semask.data.pairs import Pair
from semask.recipes.recipe import DataRecipe

ORDER, AUGMENT, SCENE, SHARE, REPEAT, PASTE = range(6)
"""What a random stream is for; part of its seed."""


def stream(purpose: int, seed: int, number: int) -> np.random.Generator:
    """Return the random numbers of one purpose for one draw, epoch or other thing that is counted."""
    return np.random.default_rng((purpose, seed, number))


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of `count` pictures in an epoch."""
    order: np.ndarray = stream(ORDER, seed, epoch).permutation(count)
    return order


class ImageOrder:
    """Which of `count` pictures a draw shows: all in a new order every epoch, or some more often than others."""

    def __init__(self, count: int, *, seed: int, factors: Float64[np.ndarray, " n"] | None = None) -> None:
        """`factors` ≥ 1 say how often an epoch shows each picture; of a fraction, an epoch's own chance decides."""
        self.count, self.seed, self.factors = count, seed, factors
        self._ends: list[int] = []
        self._last: tuple[int, np.ndarray] | None = None

    def picture(self, draw: int) -> int:
        """Return the number of the picture that a draw ≥ 0 shows."""
        if self.factors is None:
            epoch, position = divmod(draw, self.count)
            return int(shuffled(self.seed, epoch, self.count)[position])
        while not self._ends or self._ends[-1] <= draw:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + int(self._times(len(self._ends)).sum()))
        epoch = bisect_right(self._ends, draw)
        return int(self._order(epoch)[draw - (self._ends[epoch - 1] if epoch else 0)])

    def _times(self, epoch: int) -> np.ndarray:
        """Return how often an epoch shows each picture."""
        assert self.factors is not None
        whole = np.floor(self.factors).astype(np.int64)
        times: np.ndarray = whole + (stream(REPEAT, self.seed, epoch).random(self.count) < self.factors - whole)
        return times

    def _order(self, epoch: int) -> np.ndarray:
        if self._last is None or self._last[0] != epoch:
            shown = np.repeat(np.arange(self.count), self._times(epoch))
            self._last = epoch, stream(ORDER, self.seed, epoch).permutation(shown)
        return self._last[1]


def class_pixels(pairs: Sequence[Pair], data: DataRecipe, classes: Classes) -> Int64[np.ndarray, "n k"]:
    """Return the pixels of every class in every label; files seen by an earlier run are not read again.

    Raises:
        ValueError: a label cannot be read.
    """
    pixels = np.zeros((len(pairs), len(classes)), np.int64)
    known_facts = scan(pairs, data, thorough=False, progress=True)
    for row, (pair, facts) in enumerate(zip(pairs, known_facts, strict=True)):
        if not isinstance(facts.label, LabelStats):
            raise ValueError(f"{pair.label}: {facts.label.message}")
        values, counts = np.array(facts.label.values, np.int64).reshape(-1, 2).T
        targets = classes.encode(values[None])[0]
        known = (targets >= 0) & (targets < len(classes))
        np.add.at(pixels[row], targets[known], counts[known])
    return pixels


def repeat_factors(pixels: Int64[np.ndarray, "n k"], threshold: float) -> Float64[np.ndarray, " n"]:
    """Return how often to show each picture: the most that one of its classes asks for, at least 1.

    A class that a share f of the pictures holds asks for √(threshold / f).

    Source: LVIS (arXiv:1908.03195) §5, repeat factor sampling.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"data.repeat_threshold is a share of the pictures and lies in (0, 1], got {threshold:g}")
    held = pixels > 0
    share = np.maximum(held.mean(axis=0), 1 / max(1, len(pixels)))
    asked = np.maximum(1.0, np.sqrt(threshold / share))
    factors: np.ndarray = np.where(held, asked, 1.0).max(axis=1, initial=1.0)
    return factors


def rarity(pixels: Int64[np.ndarray, "n k"], temperature: float) -> Float64[np.ndarray, " k"]:
    """Return how likely each class is drawn: exp((1 - f) / temperature) of its share f of the pixels, summing to 1.

    Source: DAFormer (arXiv:2111.14887) §3.2, eq. 4-5.
    """
    if not temperature > 0:
        raise ValueError(f"data.rare_temperature must be positive, got {temperature:g}; DAFormer's is 0.01")
    share = pixels.sum(axis=0) / max(1, int(pixels.sum()))
    # Beside the rarest class, so that nothing overflows.
    weights = np.exp((share.min() - share) / temperature)
    normalised: np.ndarray = weights / weights.sum()
    return normalised
