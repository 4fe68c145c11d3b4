"""Duplicate images: the same bytes, or the same scene in another size, format or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from semask.data.checks.file_stats import ImageStats
from semask.data.checks.issue import Issue
from semask.data.checks.split import Split
from semask.data.pairs import Pair

BITS = 64
BLOCK = 256
"""Images compared with all at once; few enough for the CPU's cache."""
MAX_DUPLICATES = 10_000
"""Pairs of near duplicates reported; videos have no end of them."""


class Duplicate(NamedTuple):
    """Two pairs of one image: by its bytes (distance None), or but for so many of 64 bits."""

    first: Pair
    second: Pair
    splits: tuple[str, str]
    distance: int | None
    same_label: bool

    @property
    def leak(self) -> bool:
        """Whether the two lie in different splits, so that scores are too good."""
        return self.splits[0] != self.splits[1]


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


def find_duplicates(splits: Sequence[Split], *, distance: int) -> tuple[Duplicate, ...]:
    """Return pairs whose images are the same or nearly so: between splits first, the most similar first."""
    entries = [
        (split.name, pair, stats) for split in splits for pair, stats in zip(split.pairs, split.stats, strict=True)
    ]

    def duplicate(first: int, second: int, bits: int | None) -> Duplicate:
        (split, pair, stats), (other_split, other_pair, other_stats) = entries[first], entries[second]
        same_label = stats.label_digest == other_stats.label_digest
        return Duplicate(pair, other_pair, (split, other_split), bits, same_label)

    # the same bytes
    digests = [stats.image_digest or None for _, _, stats in entries]
    found = [duplicate(group[0], other, None) for group in groups_of_same(digests) for other in group[1:]]
    # similar signatures, from the end, where validation lies: the limit drops pairs within the training split
    signatures = [
        stats.image.pixels.signature if isinstance(stats.image, ImageStats) and stats.image.pixels else None
        for _, _, stats in entries
    ]
    near, last = near_duplicates(signatures[::-1], distance=distance), len(entries) - 1
    similar = ((last - second, last - first, bits) for first, second, bits in near)
    found += [
        duplicate(*each) for each in islice((s for s in similar if digests[s[0]] != digests[s[1]]), MAX_DUPLICATES)
    ]
    return tuple(sorted(found, key=lambda each: (not each.leak, -1 if each.distance is None else each.distance)))


def duplicate_issues(duplicates: Sequence[Duplicate]) -> Iterator[Issue]:
    """Report copies between splits one by one, and within them those whose labels differ; of others their number."""
    # duplicates between splits, one by one
    within = [each for each in duplicates if not each.leak]
    for each in duplicates:
        if each.leak:
            like = "the same file as" if each.distance is None else f"like ({each.distance} of 64 bits differ)"
            yield Issue(
                "leak",
                f"in {each.splits[1]!r} and {like} {each.first.image} in {each.splits[0]!r}: scores will be too good; "
                "keep it in one split",
                each.second.image,
                severity="error" if each.distance is None else "warning",
            )
    for each in within:
        # within a split, copies with different labels contradict each other
        if each.distance is None and not each.same_label:
            message = f"the same image as {each.first.image}, with another label; keep the right one"
            yield Issue("duplicate", message, each.second.image, "warning")
    # the others in one line each: only their number matters
    copies = sum(each.distance is None for each in within)
    for count, what in ((copies, "copies of a file"), (len(within) - copies, "pairs of nearly equal images")):
        if count:
            message = f"{what} within a split: {count}; they count more than others"
            yield Issue("duplicate", message, severity="warning")
