"""The range of stored values where files do not name it: 12 bits in files of 16, and floats.

A range is chosen only if all images are of one type: one range for files of 8 and of 16 bit would make some of them
black.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from semask.data.checks.cache import StatsCache
from semask.data.checks.file_stats import StoredRange
from semask.data.checks.scan import MAX_WORKERS, measure_file
from semask.data.pairs import Pair
from semask.data.readers.raster import FULL_SCALE, is_deep, read_stored
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

DEPTHS = (8, 10, 12, 14)
"""Bits of cameras and microscopes that are stored in files of 16."""
NO_DATA = -9999
"""Values from here down mean "no data" in maps, and are no end of a range."""


class FoundRange(NamedTuple):
    """The values that become 0 and 1, and what in the images shows them."""

    low: float
    high: float
    reason: str

    @property
    def text(self) -> str:
        """The range for people."""
        return f"{self.low:g} … {self.high:g}"


def find_value_range(pairs: Sequence[Pair], data: DataRecipe) -> FoundRange | None:
    """Return the range of all images, or None where it is that of their type, given by the recipe, or open."""
    if data.value_range is not None or data.kind == "scenes":
        return None
    measure = partial(measure_range, data=data)
    kind = f"range of {data.channels} channels"
    with StatsCache() as cache, ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda pair: measure_file(pair.image, cache, [kind], measure, trust_stamp=True)[1], pairs)
        # files that cannot be read are reported by the check
        return range_of([each for each in found if isinstance(each, StoredRange)])


def measure_range(source: Source, data: DataRecipe) -> StoredRange:
    """Measure the smallest and largest stored value; files of 8 bits are not decoded.

    Raises:
        ValueError: as for `read_stored`, or a value is NaN or infinite.
    """
    if not is_deep(source, replace(data, value_range=None)):
        return StoredRange("uint8", *FULL_SCALE["uint8"])
    stored = read_stored(source, data)
    if not np.isfinite(stored).all():
        raise ValueError("NaN or infinite samples")
    return StoredRange(stored.dtype.name, float(stored.min()), float(stored.max()))


def range_of(found: Sequence[StoredRange]) -> FoundRange | None:
    """Return the range that measured images show.

    >>> range_of([StoredRange("uint16", 12.0, 3999.0), StoredRange("uint16", 0.0, 800.0)]).text
    '0 … 4095'
    """
    kinds = {each.kind for each in found}
    if len(kinds) != 1 or kinds == {"uint8"}:
        return None
    kind, low, high = *kinds, min(each.lowest for each in found), max(each.highest for each in found)
    reason = f"the images hold {low:g} … {high:g} as {kind}"
    if low <= NO_DATA or low == high:
        return None
    depth = next((bits for bits in DEPTHS if high < 2**bits), None)
    if "int" in kind and low >= 0 and depth is not None:
        return FoundRange(0.0, 2.0**depth - 1, reason)
    if kind in FULL_SCALE:
        return None
    # types without a largest value
    return FoundRange(0.0, 1.0, reason) if low >= 0 and high <= 1 else FoundRange(low, high, reason)
