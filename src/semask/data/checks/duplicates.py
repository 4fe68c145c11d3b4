"""Finding pictures that are there twice: the same bytes, or the same scene in another size, format or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

BITS = 64
BLOCK = 256
"""Pictures compared with all at once; little enough for the processor's cache."""


class Likeness(NamedTuple):
    """Two pictures by their numbers, first < second, and how many bits of their signatures differ."""

    first: int
    second: int
    distance: int


def groups_of_same(values: Sequence[Hashable | None]) -> list[list[int]]:
    """Return the numbers of the values that are given more than once, group by group; None is like no other."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value is not None:
            groups[value].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(signatures: Sequence[int | None], *, distance: int) -> Iterator[Likeness]:
    """Yield all pairs whose signatures of 64 bits differ in at most `distance` of them; None is like no other."""
    known = np.array([index for index, signature in enumerate(signatures) if signature is not None], np.int64)
    numbers = np.array([signature for signature in signatures if signature is not None], np.uint64)
    # As ±1 in floats, a product of matrices counts equal bits less differing ones, exactly.
    signs = ((numbers[:, None] >> np.arange(BITS, dtype=np.uint64)) & np.uint64(1)).astype(np.float32) * 2 - 1
    for start in range(0, len(signs), BLOCK):
        agreement = signs[start : start + BLOCK] @ signs[start:].T
        rows, columns = np.nonzero(agreement >= BITS - 2 * distance)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if row < column:
                first, second = int(known[start + row]), int(known[start + column])
                yield Likeness(first, second, (BITS - int(agreement[row, column])) // 2)
