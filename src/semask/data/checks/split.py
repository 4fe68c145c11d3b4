"""A split of a data set with the statistics of its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from semask.data.checks.class_counts import ClassCounts
from semask.data.checks.file_stats import ImageStats, PairStats
from semask.data.pairs import Pair


class Split(NamedTuple):
    """The pairs of a split with their statistics."""

    name: str
    pairs: tuple[Pair, ...]
    stats: tuple[PairStats, ...]
    counts: ClassCounts

    def images(self) -> Iterator[tuple[Pair, ImageStats]]:
        """Yield the pairs whose image could be read, with its statistics."""
        for pair, stats in zip(self.pairs, self.stats, strict=True):
            if isinstance(stats.image, ImageStats):
                yield pair, stats.image

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with [height, width, number of images] of every size."""
        sizes = [[image.height, image.width] for _, image in self.images()]
        distinct, counts = np.unique(np.array(sizes, np.int64).reshape(-1, 2), axis=0, return_counts=True)
        return {
            "pairs": len(self.pairs),
            "pixels": self.counts.pixels.tolist(),
            "images": self.counts.images.tolist(),
            "ignored": self.counts.ignored,
            "sizes": [[*size, count] for size, count in zip(distinct.tolist(), counts.tolist(), strict=True)],
        }
