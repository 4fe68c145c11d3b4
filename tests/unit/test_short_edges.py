"""Scale jitter by a draw of the short side, against detectron2's ResizeShortestEdge written out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.augment.transforms import TrainTransform
from semask.recipes.recipe import DataRecipe
from tests.facts import facts

PLAIN = DataRecipe(crop=(64, 64), cat_max_ratio=1.0, flip=0.0, photometric=False)


def shortest_edge(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """Return detectron2's output shape: short side first, then the limit, then int(x + 0.5)."""
    scale = size * 1.0 / min(height, width)
    new_height, new_width = (size, scale * width) if height < width else (scale * height, size)
    if max(new_height, new_width) > max_size:
        scale = max_size * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def on_the_fence(height: int, width: int, size: int, max_size: int) -> bool:
    """Whether an exact side ends in one half, where the last bit of a product decides."""
    factor = min(Fraction(size, min(height, width)), Fraction(max_size, max(height, width)))
    return any((side * factor - Fraction(1, 2)).denominator == 1 for side in (height, width))


def size_of(data: DataRecipe, height: int, width: int, seed: int = 0) -> tuple[int, int]:
    """Return the size that a image is brought to before the crop."""
    label = torch.zeros(height, width, dtype=torch.uint8)
    _, out = TrainTransform(data)(torch.zeros(3, height, width, dtype=torch.uint8), label, np.random.default_rng(seed))
    inside = out == 0
    return int(inside.any(1).sum()), int(inside.any(0).sum())


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 90), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_sizes_are_those_of_detectron2(height: int, width: int, short: int, more: int) -> None:
    expected = shortest_edge(height, width, short, short + more)
    data = replace(PLAIN, short_edges=(short,), long_edge=short + more, crop=(300, 300))
    got = size_of(data, height, width)
    if min(expected) >= 1 and not on_the_fence(height, width, short, short + more):
        assert got == expected
    assert got[0] <= short + more
    assert got[1] <= short + more
    assert min(got) <= short


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((683, 512), 640, 2560, (854, 640)),
        ((300, 2000), 640, 2560, (384, 2560)),
        ((1024, 2048), 614, 4096, (614, 1228)),
        ((333, 501), 160, 2560, (160, 241)),
    ],
)
def test_sizes_worked_by_hand(size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]) -> None:
    data = replace(PLAIN, short_edges=(short,), long_edge=longest, crop=(2560, 2560))
    assert size_of(data, *size) == expected == shortest_edge(*size, short, longest)


def test_a_crop_is_cut_from_the_image_at_that_size() -> None:
    random = np.random.default_rng(1)
    image = torch.from_numpy(random.integers(0, 256, (3, 30, 50), dtype=np.uint8))
    label = torch.from_numpy(random.integers(0, 9, (30, 50), dtype=np.uint8))
    data = replace(PLAIN, short_edges=(15,), long_edge=100, crop=(10, 10))
    # Half size with half-pixel centres: a pixel is the mean of 2 × 2, a label that of the upper left one.
    small = image.float().reshape(3, 15, 2, 25, 2).mean((2, 4))
    ids = label[::2, ::2]
    corners = set()
    for seed in range(40):
        out, got = TrainTransform(data)(image, label, np.random.default_rng(seed))
        places = [
            (top, left)
            for top in range(6)
            for left in range(16)
            if torch.equal(ids[top : top + 10, left : left + 10], got)
        ]
        assert len(places) == 1
        (top, left) = places[0]
        assert (out * 255 - small[:, top : top + 10, left : left + 10]).abs().max() <= 1.0
        corners.add((top, left))
    assert len(corners) > 15


def test_every_edge_is_drawn_alike() -> None:
    data = replace(PLAIN, short_edges=(10, 20, 30), long_edge=60, crop=(60, 60))
    drawn = Counter(size_of(data, 20, 25, seed) for seed in range(300))
    assert set(drawn) == {(10, 13), (20, 25), (30, 38)}
    assert min(drawn.values()) > 70


def test_the_box_of_the_test_does_not_bound_the_draw() -> None:
    data = replace(PLAIN, short_edges=(40,), long_edge=80, crop=(80, 80))
    assert size_of(replace(data, base_scale=(20, 20), base_ratio=0.1), 20, 20) == (40, 40)


@pytest.mark.parametrize("other", [{"scale_choices": (1.0,)}, {"scale_range": (0.5, 2.0)}])
def test_one_way_to_draw_a_size(other: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=facts(*other, *other.values(), "short_edges", (32,), "--data.short-edges None")
    ):
        TrainTransform(replace(PLAIN, short_edges=(32,), **other))


@pytest.mark.parametrize(
    ("edges", "longest", "wanted"),
    [
        ((), 100, ("base_ratio", 1)),
        ((32, 0), 100, ("base_ratio", 1)),
        ((32, 64), 63, ("long_edge", 63)),
    ],
)
def test_edges_that_cannot_be(edges: tuple[int, ...], longest: int, wanted: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts("short_edges", edges, *wanted)):
        TrainTransform(replace(PLAIN, short_edges=edges, long_edge=longest))
