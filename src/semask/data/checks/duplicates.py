"""Duplicate images: the same bytes, or the same scene in another size, format or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

BITS = 64
BLOCK = 256
"""Images compared with all at once; few enough for the CPU's cache."""


def groups_of_same(values: Sequence[Hashable | None]) -> list[list[int]]:
    """Return the indices of values that occur more than once, group by group; None equals nothing."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value is not None:
            groups[value].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(signatures: Sequence[int | None], *, distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, second, differing bits) of all pairs whose 64-bit signatures differ in at most `distance` bits."""
    known = np.array([index for index, signature in enumerate(signatures) if signature is not None], np.int64)
    numbers = np.array([signature for signature in signatures if signature is not None], np.uint64)
    # as ±1 in floats, a product of matrices counts equal bits less differing ones, exactly
    signs = ((numbers[:, None] >> np.arange(BITS, dtype=np.uint64)) & np.uint64(1)).astype(np.float32) * 2 - 1
    for start in range(0, len(signs), BLOCK):
        agreement = signs[start : start + BLOCK] @ signs[start:].T
        rows, columns = np.nonzero(agreement >= BITS - 2 * distance)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if row < column:
                yield int(known[start + row]), int(known[start + column]), (BITS - int(agreement[row, column])) // 2
