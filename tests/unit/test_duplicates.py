"""Like pictures against comparing all with all."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data import duplicates
from semask.data.duplicates import groups_of_same, near_duplicates

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
