"""Paired differences against SciPy's own test, and what an interval must do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from semask.evaluation.comparison import Difference, paired_difference, spread
from tests.facts import facts


def decided(found: Difference) -> bool:
    return found.low > 0 or found.high < 0


SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8)


@given(SCORES)
def test_the_interval_is_that_of_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found = paired_difference(ours, theirs)
    if len({a - b for a, b in pairs}) == 1:
        assert found.low == pytest.approx(found.mean) and found.high == pytest.approx(found.mean)  # noqa: PT018
        return
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@given(SCORES)
def test_turned_round_it_changes_its_sign(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    one, other = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high)
    assert decided(one) == decided(other)


def test_what_both_share_cancels_out() -> None:
    """Runs that differ by much from seed to seed, and by the same from row to row."""
    found = paired_difference([0.42, 0.52, 0.61], [0.40, 0.50, 0.59])
    assert found.mean == pytest.approx(0.02)
    assert decided(found)
    assert not decided(paired_difference([0.42, 0.50, 0.61], [0.40, 0.52, 0.59]))


def test_a_single_pair_has_no_interval() -> None:
    found = paired_difference([0.5], [0.4])
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.low) and math.isnan(found.high)  # noqa: PT018
    assert not decided(found)
    assert math.isnan(spread([0.5])[1])


def test_odd_input_is_refused() -> None:
    with pytest.raises(ValueError, match=facts(2, 1)):
        paired_difference([0.1, 0.2], [0.1])
    with pytest.raises(ValueError):  # noqa: PT011  nothing was given, so there is nothing to name
        spread([])
