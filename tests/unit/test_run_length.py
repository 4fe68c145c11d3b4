"""Run lengths against masks of which they were counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semask.data.readers.coco_mask import decode_mask
from tests.facts import facts


def coco_text(runs: list[int]) -> str:
    """COCO's own way of writing run lengths, from its description: 5 bits a character, least significant first."""
    text = ""
    for index, run in enumerate(runs):
        rest, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@given(st.integers(0, 2**63), st.integers(1, 9), st.integers(1, 9))
def test_run_lengths(seed: int, height: int, width: int) -> None:
    """Down the columns, beginning with the length of what is outside."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    runs = [0]
    inside = False
    for value in mask.T.ravel().tolist():
        if value != inside:
            runs.append(0)
            inside = value
        runs[-1] += 1
    for counts in (runs, coco_text(runs)):
        assert decode_mask({"counts": counts}, height=height, width=width).tolist() == mask.tolist()


def test_run_lengths_of_many_pixels_and_no_mask() -> None:
    runs = [100_000, 3, 7, 90_000, 109_990]
    mask = decode_mask({"counts": coco_text(runs)}, height=300, width=1000)
    assert np.flatnonzero(np.diff(mask.T.ravel())).tolist() == [99_999, 100_002, 100_009, 190_009]
    cases = (("abc", "abc"), ({"size": [1, 1]}, [1, 1]), ([1, 2], [1, 2]), ({"counts": "P1"}, "1×1"))
    for bad, wanted in (*cases, ({"counts": [3, -3, 1]}, "1×1")):
        with pytest.raises(ValueError, match=facts(wanted)):
            decode_mask(bad, height=1, width=1)
