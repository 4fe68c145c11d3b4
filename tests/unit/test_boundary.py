"""Boundary IoU and F-score against loops over pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from semask.evaluation.metrics.boundary import BoundaryCounts, count_boundaries
from semask.structures import IGNORE

K = 3


def blocky(seed: int, size: tuple[int, int], *, ignore: bool = True) -> np.ndarray:
    """Random patches of classes, some of them ignored."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, K + ignore, (size[0] // 4 + 1, size[1] // 4 + 1)).astype(np.uint8)
    coarse[coarse == K] = IGNORE
    return coarse.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]


def band_oracle(labels: np.ndarray, number: int, width: int) -> np.ndarray:
    """A class's mask without what remains of it after `width` erosions by 3×3, nothing lying beyond the image."""
    mask = np.pad(labels == number, 1)
    return (mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width))[1:-1, 1:-1]


def outline_oracle(labels: np.ndarray, number: int) -> list[tuple[int, int]]:
    height, width = labels.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        others = [labels[at] for at in near if 0 <= at[0] < height and 0 <= at[1] < width]
        if labels[y, x] == number and any(other not in (number, IGNORE) for other in others):
            found.append((y, x))
    return found


def near(places: list[tuple[int, int]], others: list[tuple[int, int]], reach: float) -> int:
    return sum(any(math.dist(place, other) <= reach for other in others) for place in places)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (30, 41), (64, 50)])
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_of_loops(size: tuple[int, int], seed: int) -> None:
    truth, guess = blocky(seed, size), blocky(seed + 10, size, ignore=False)
    got = count_boundaries(guess, truth, K)
    masked = np.where(truth == IGNORE, IGNORE, guess)
    diagonal = math.hypot(*size)
    width, reach = max(1, round(0.02 * diagonal)), max(1.0, 0.0075 * diagonal)
    for number in range(K):
        ours, theirs = band_oracle(masked, number, width), band_oracle(truth, number, width)
        assert got.shared[number] == (ours & theirs).sum()
        assert got.joined[number] == (ours | theirs).sum()
        ours, theirs = outline_oracle(masked, number), outline_oracle(truth, number)
        assert (got.predicted[number], got.labelled[number]) == (len(ours), len(theirs))
        assert (got.right[number], got.found[number]) == (near(ours, theirs, reach), near(theirs, ours, reach))


def test_a_tolerance_of_several_pixels() -> None:
    """On 400×400 px outlines may lie 4 px apart, and bands are 11 px wide."""
    truth, guess = np.zeros((400, 400), np.uint8), np.zeros((400, 400), np.uint8)
    truth[:, 200:], guess[:, 204:] = 1, 1
    scores = count_boundaries(guess, truth, 2).scores()
    assert scores.f_score.tolist() == [1.0, 1.0]
    guess[:, 204] = 0
    assert count_boundaries(guess, truth, 2).scores().f_score.tolist() == [0.0, 0.0]
    assert 0.5 < scores.iou[0] < 1.0


def test_perfect_and_absent_classes() -> None:
    truth = blocky(3, (40, 40))
    scores = count_boundaries(np.where(truth == IGNORE, 0, truth).astype(np.uint8), truth, K + 1).scores()
    assert scores.iou[:K].tolist() == scores.f_score[:K].tolist() == [1.0] * K
    assert np.isnan([scores.iou[K], scores.f_score[K]]).all()
    nothing = count_boundaries(np.zeros((5, 5), np.uint8), np.full((5, 5), IGNORE, np.uint8), 1)
    assert np.isnan(nothing.scores()).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_ignored_pixels_and_the_order_of_images_never_matter(seed: int, size: tuple[int, int]) -> None:
    truth, guess = blocky(seed, size), blocky(seed + 1, size, ignore=False)
    got = count_boundaries(guess, truth, K)
    random = np.random.default_rng(seed)
    other = np.where(truth == IGNORE, random.integers(0, K, size), guess).astype(np.uint8)
    assert all(np.array_equal(a, b) for a, b in zip(got, count_boundaries(other, truth, K), strict=True))
    more = count_boundaries(truth, truth, K)
    for total in (got + more, more + got, BoundaryCounts.zeros(K) + got + more):
        assert all(np.array_equal(a + b, c) for a, b, c in zip(got, more, total, strict=True))
