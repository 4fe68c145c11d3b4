"""Sizes that pictures are brought to, against mmcv's rule in exact numbers, for the boxes of all families."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import floor

import pytest

from semask.ops.resize import fit_size

FAMILIES = {
    "SeMask on ADE20K": ((2048, 512), (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
    "SeMask-L on ADE20K": ((2560, 640), (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
    "SeMask on Cityscapes": ((2048, 1024), (0.5, 0.7318, 1.0, 1.9999, 2.0)),
    "Segmenter on ADE20K": ((2048, 512), (0.5, 0.613, 1.0, 1.377, 2.0)),
    "Segmenter on Pascal Context": ((4160, 520), (0.5, 0.871, 1.0, 1.45, 2.0)),
}
"""Boxes (long, short) [px], and ratios that are drawn from or between."""
SIZES = [(512, 683), (683, 512), (375, 500), (333, 501), (1024, 2048), (97, 1031), (1, 1), (1, 700), (2047, 1023)]


def mmcv(height: int, width: int, box: tuple[int, int], ratio: float) -> tuple[int, int] | None:
    """Return what mmcv.imrescale makes of a box scaled and truncated; None where one half decides by the last bit."""
    long, short = (int(side * ratio) for side in box)
    factor = min(Fraction(long, max(height, width)), Fraction(short, min(height, width)))
    exact = [side * factor + Fraction(1, 2) for side in (height, width)]
    return None if any(side.denominator == 1 for side in exact) else (floor(exact[0]), floor(exact[1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_mmcvs(family: str) -> None:
    box, ratios = FAMILIES[family]
    compared = 0
    for (height, width), ratio in product(SIZES, ratios):
        expected = mmcv(height, width, box, ratio)
        if expected is not None and min(expected) > 0:
            assert fit_size(height, width, box, ratio) == expected, (height, width, ratio)
            compared += 1
    assert compared > 30


def test_the_box_is_truncated_before_the_fit() -> None:
    assert fit_size(683, 512, (2048, 512), 0.613) == (418, 313)  # a short side of int(313.856)
    assert fit_size(512, 683, (2048, 512), 1.377) == (705, 940)  # of int(705.024)
