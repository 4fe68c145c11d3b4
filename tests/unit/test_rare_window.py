"""Crops around a pixel of a rare class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.augment.transforms import rare_window
from semask.structures import IGNORE


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_window_lies_inside_and_shows_a_class(height: int, width: int, high: int, wide: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = torch.from_numpy(random.choice(np.array([0, 1, IGNORE], np.uint8), (height, width), p=(0.05, 0.05, 0.9)))
    window = rare_window(label, (high, wide), np.array([0.3, 0.7]), random)
    if bool((label == IGNORE).all()):
        assert window is None
        return
    assert window is not None
    rows, columns = window
    assert 0 <= rows.start <= max(height - high, 0)
    assert 0 <= columns.start <= max(width - wide, 0)
    assert label[window].shape == (min(high, height), min(wide, width))
    assert bool((label[window] != IGNORE).any())


def test_classes_are_drawn_by_rarity_among_those_present() -> None:
    label = torch.zeros(40, 40, dtype=torch.uint8)
    label[5, 5], label[30, 30] = 1, 2
    weights = np.array([0.0, 0.3, 0.1, 0.6])
    corners = Counter()
    for seed in range(400):
        rows, columns = rare_window(label, (5, 5), weights, np.random.default_rng(seed)) or (slice(0), slice(0))
        corners[rows.start, columns.start] += 1
    assert set(corners) == {(3, 3), (28, 28)}, "the pixel is in the middle; class 0 has no weight, class 3 no pixel"
    assert 0.69 < corners[3, 3] / 400 < 0.81


def test_at_a_border_the_window_keeps_its_size() -> None:
    label = torch.full((20, 30), IGNORE, dtype=torch.uint8)
    label[0, 29] = 1
    assert rare_window(label, (8, 6), np.array([0.5, 0.5]), np.random.default_rng(0)) == (slice(0, 8), slice(24, 30))


@pytest.mark.parametrize("present", [(), (IGNORE,)])
def test_nothing_labelled_gives_no_window(present: tuple[int, ...]) -> None:
    label = torch.full((4, 4), present[0] if present else 3, dtype=torch.uint8)
    assert rare_window(label, (2, 2), np.array([0.5, 0.5]), np.random.default_rng(0)) is None
