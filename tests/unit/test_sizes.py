"""Scores by the size of objects against a flood fill."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semask.evaluation.metrics import Confusion
from semask.evaluation.metrics.sizes import SizeConfusions
from semask.structures import IGNORE
from tests.facts import facts


def regions_oracle(truth: np.ndarray) -> list[list[tuple[int, int]]]:
    """Connected regions of one class, across corners too, by flood fill."""
    height, width = truth.shape
    left = {at for at in itertools.product(range(height), range(width)) if truth[at] != IGNORE}
    found = []
    while left:
        queue = [left.pop()]
        region = []
        while queue:
            y, x = queue.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            near = {at for at in near if truth[at] == truth[y, x]}
            left -= near
            queue += near
        found.append(region)
    return found


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.choice([0, 0, 0, 1, 2, IGNORE], (17, 23)).astype(np.uint8)
    return random.integers(0, 3, (17, 23)).astype(np.uint8), truth


@pytest.mark.parametrize("areas", [(4, 20), (1,), (2, 3, 200)])
def test_objects_and_matrices_of_a_flood_fill(areas: tuple[int, ...]) -> None:
    sizes = SizeConfusions(3, areas=areas)
    matrices, objects = np.zeros((len(areas) + 1, 3, 3), int), [0] * (len(areas) + 1)
    for seed in range(3):
        prediction, truth = maps(seed)
        sizes.update(prediction, truth)
        for region in regions_oracle(truth):
            number = sum(len(region) >= area for area in areas)
            objects[number] += 1
            for at in region:
                matrices[number, truth[at], prediction[at]] += 1
    assert sizes.objects == objects
    assert [confusion.matrix.tolist() for confusion in sizes.confusions] == matrices.tolist()


def test_ranges_add_up_to_all_pixels_and_parts_to_the_whole() -> None:
    whole, first, second, confusion = SizeConfusions(3), SizeConfusions(3), SizeConfusions(3), Confusion(3)
    for seed in range(4):
        prediction, truth = maps(seed)
        whole.update(prediction, truth)
        (first if seed % 2 else second).update(prediction, truth)
        confusion.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert torch.equal(sum(part.matrix for part in whole.confusions), confusion.matrix)  # type: ignore[arg-type]
    first.merge(second)
    assert first.to_dict("abc") == whole.to_dict("abc")


def test_limits_are_those_of_coco() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[:31, :33] = 1  # 1023 px
    truth[60:92, 60:92] = 2  # 1024 px
    record = SizeConfusions(3)
    record.update(truth, truth)
    stored = record.to_dict(["sky", "car", "bus"])
    assert stored["thresholds"] == [1024, 9216]
    assert [(part["name"], part["objects"], part["miou"]) for part in stored["bins"]] == [  # type: ignore[attr-defined]
        ("small", 1, 1.0),
        ("medium", 2, 1.0),
        ("large", 0, None),
    ]
    assert [part["name"] for part in SizeConfusions(2, areas=(50,)).to_dict("ab")["bins"]] == [  # type: ignore[attr-defined]
        "below 50 px",
        "from 50 px",
    ]


def test_means_are_over_the_classes_that_have_objects_of_the_size() -> None:
    truth, guess = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[:2, :2] = 1
    guess[:2, 1:3] = 1
    guess[10, 10] = 2
    sizes = SizeConfusions(3, areas=(50,))
    sizes.update(guess, truth)
    small, large = sizes.to_dict("abc")["bins"]  # type: ignore[misc]
    assert small["miou"] == pytest.approx(2 / 4), "two of the object's pixels are found"
    assert large["miou"] == pytest.approx((396 - 3) / 396), "classes 1 and 2 have no large object"
    assert [row["iou"] is None for row in large["classes"]] == [False, True, True]


@pytest.mark.parametrize("areas", [(), (0, 5), (9, 4), (4, 4)])
def test_areas_that_do_not_rise_are_refused(areas: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=facts(areas, 1)):
        SizeConfusions(3, areas=areas)
    with pytest.raises(ValueError, match=facts((7,), (1024, 9216))):
        SizeConfusions(3).merge(SizeConfusions(3, areas=(7,)))
