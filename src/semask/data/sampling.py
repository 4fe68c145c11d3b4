"""Sampling of training images: which image a draw shows, and how often; random streams by seed and draw number.

Every number is a function of the seed and of its purpose, so that a resumed run, another number of workers or of
processes draws the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from semask.data.checks.class_counts import count_classes
from semask.data.checks.file_stats import LabelStats
from semask.data.checks.scan import scan
from semask.data.classes import Classes
from semask.data.pairs import Pair
from semask.recipes.recipe import DataRecipe

ORDER, AUGMENT, SCENE, SHARE, REPEAT, PASTE = range(6)
"""Purposes of random streams; part of their seed."""


def stream(purpose: int, seed: int, number: int) -> np.random.Generator:
    """Return the random generator of one purpose for one draw, epoch or other number."""
    return np.random.default_rng((purpose, seed, number))


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of `count` images in an epoch."""
    order: np.ndarray = stream(ORDER, seed, epoch).permutation(count)
    return order


class ImageOrder:
    """The image, of `count`, that each draw shows: all in a new order every epoch, or some more often than others."""

    def __init__(self, count: int, *, seed: int, factors: Float64[np.ndarray, " n"] | None = None) -> None:
        """`factors` ≥ 1 are repetitions per epoch of each image; fractions are chances, drawn anew in every epoch."""
        self.count, self.seed, self.factors = count, seed, factors
        self._ends: list[int] = []
        self._last: tuple[int, np.ndarray] | None = None

    def index(self, draw: int) -> int:
        """Return the index of the image that a draw ≥ 0 shows."""
        if self.factors is None:
            epoch, position = divmod(draw, self.count)
            return int(shuffled(self.seed, epoch, self.count)[position])
        # epochs differ in length: find the one that holds the draw
        while not self._ends or self._ends[-1] <= draw:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + int(self.repeats(len(self._ends)).sum()))
        epoch = bisect_right(self._ends, draw)
        if self._last is None or self._last[0] != epoch:
            shown = np.repeat(np.arange(self.count), self.repeats(epoch))
            self._last = epoch, stream(ORDER, self.seed, epoch).permutation(shown)
        return int(self._last[1][draw - (self._ends[epoch - 1] if epoch else 0)])

    def repeats(self, epoch: int) -> Int64[np.ndarray, " n"]:
        """Return how often an epoch shows each image."""
        factors = np.ones(self.count) if self.factors is None else self.factors
        whole = np.floor(factors).astype(np.int64)
        times: np.ndarray = whole + (stream(REPEAT, self.seed, epoch).random(self.count) < factors - whole)
        return times


def class_pixels(pairs: Sequence[Pair], data: DataRecipe, classes: Classes) -> Int64[np.ndarray, "n k"]:
    """Return the pixels of every class in every label; files seen by an earlier run are not read again.

    Raises:
        ValueError: a label cannot be read.
    """
    rows = []
    for pair, stats in zip(pairs, scan(pairs, data, thorough=False, progress=True), strict=True):
        if not isinstance(stats.label, LabelStats):
            raise ValueError(f"{pair.label}: {stats.label.message}")
        rows.append(count_classes([stats.label], classes).pixels)
    return np.array(rows, np.int64).reshape(len(pairs), len(classes))


def repeat_factors(pixels: Int64[np.ndarray, "n k"], threshold: float) -> Float64[np.ndarray, " n"]:
    """Return the repetitions of each image: the maximum over its classes of √(threshold / f), at least 1.

    f is the share of the images that hold the class.

    Source: LVIS (arXiv:1908.03195) §5, repeat factor sampling.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"data.repeat_threshold is a share of the images and lies in (0, 1], got {threshold:g}")
    # the share of images that hold a class
    held = pixels > 0
    share = np.maximum(held.mean(axis=0), 1 / max(1, len(pixels)))
    by_class = np.maximum(1.0, np.sqrt(threshold / share))
    factors: np.ndarray = np.where(held, by_class, 1.0).max(axis=1, initial=1.0)
    return factors


def rarity(pixels: Int64[np.ndarray, "n k"], temperature: float) -> Float64[np.ndarray, " k"]:
    """Return the probability of each class: exp((1 - f) / temperature) of its share f of the pixels, summing to 1.

    Source: DAFormer (arXiv:2111.14887) §3.2, eq. 4-5.
    """
    if not temperature > 0:
        raise ValueError(f"data.rare_temperature must be positive, got {temperature:g}; DAFormer's is 0.01")
    share = pixels.sum(axis=0) / max(1, int(pixels.sum()))
    # relative to the rarest class, so that nothing overflows
    weights = np.exp((share.min() - share) / temperature)
    normalised: np.ndarray = weights / weights.sum()
    return normalised
