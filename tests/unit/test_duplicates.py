"""Like images against comparing all with all."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.checks import duplicates
from semask.data.checks.class_counts import count_classes
from semask.data.checks.duplicates import find_duplicates, groups_of_same, near_duplicates
from semask.data.checks.file_stats import ImageStats, PairStats, PixelStats, ReadFailure
from semask.data.checks.split import Split
from semask.data.pairs import Pair
from semask.data.scenes.scene import SCENE_CLASSES

NUMBERS = st.one_of(st.none(), st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 3, 7, 2**63, 2**64 - 1, 2**64 - 2]))


@settings(deadline=None, max_examples=60)
@given(st.lists(NUMBERS, max_size=30), st.integers(0, 8), st.sampled_from([1, 4, 256]))
def test_near_duplicates_against_counting_bits(signatures: list[int | None], distance: int, block: int) -> None:
    expected = {
        (i, j, (a ^ b).bit_count())
        for (i, a), (j, b) in combinations(enumerate(signatures), 2)
        if a is not None and b is not None and (a ^ b).bit_count() <= distance
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        found = list(near_duplicates(signatures, distance=distance))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_groups_of_same() -> None:
    assert groups_of_same(["a", None, "b", "a", None, "c", "b", "a"]) == [[0, 3, 7], [2, 6]]
    assert groups_of_same([]) == []


def split(name: str, signatures: list[int]) -> Split:
    facts = [
        PairStats(ImageStats(9, 9, 1, PixelStats((0.0,), (0.0,), bits)), ReadFailure("none"), f"{name}{i}")
        for i, bits in enumerate(signatures)
    ]
    pairs = [Pair(f"{name}{i}", Path(f"{name}{i}.png"), Path(f"{name}{i}_.png")) for i in range(len(facts))]
    return Split(name, tuple(pairs), tuple(facts), count_classes([], SCENE_CLASSES))


def test_no_end_of_like_images_hides_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semask.data.checks.duplicates.MAX_DUPLICATES", 10)
    found = find_duplicates((split("train", [5] * 8), split("val", [7, 2**64 - 1])), distance=3)
    assert len(found) == 10
    leaks = [each for each in found if each.leak]
    assert sorted(each.first.stem for each in leaks) == [f"train{i}" for i in range(8)]
    assert {(each.second.stem, each.splits, each.distance) for each in leaks} == {("val0", ("train", "val"), 1)}
