"""Counts and weights of classes against loops and the formulas of the papers."""

from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.checks.class_counts import (
    ClassCounts,
    count_classes,
    effective_number,
    inverse_frequency,
    median_frequency,
)
from semask.data.checks.file_stats import LabelStats
from semask.data.classes import Classes
from semask.structures import IGNORE

CLASSES = Classes.from_dict(
    {"classes": ["a", "b", "c", "d"], "labels": {"1": 0, "2": 1, "3": 2, "4": 3, "9": 3, "0": "ignore"}}
)


def facts(label: np.ndarray) -> LabelStats:
    values, counts = np.unique(label, return_counts=True)
    return LabelStats(*label.shape, 1, (), tuple(zip(values.tolist(), counts.tolist(), strict=True)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 4, 9, 77]), min_size=1, max_size=12), max_size=5))
def test_counts_against_a_loop(labels: list[list[int]]) -> None:
    found = count_classes([facts(np.array([label])) for label in labels], CLASSES)
    pixels, images, surroundings, ignored = [0] * 4, [0] * 4, [0] * 4, 0
    for label in labels:
        targets = [CLASSES.label_map.get(value) for value in label]
        known = [target for target in targets if target is not None and target != IGNORE]
        ignored += targets.count(IGNORE)
        for index in range(4):
            pixels[index] += known.count(index)
            images[index] += index in known
            surroundings[index] += len(known) if index in known else 0
    assert found.pixels.tolist() == pixels
    assert found.images.tolist() == images
    assert found.surroundings.tolist() == surroundings
    assert found.ignored == ignored


COUNTS = ClassCounts(np.array([100, 50, 0, 2]), np.array([10, 4, 0, 1]), np.array([152, 90, 0, 40]), 7)


def test_inverse_frequency() -> None:
    weights = inverse_frequency(COUNTS)
    assert weights[1] == pytest.approx(2 * weights[0])
    assert weights[3] == pytest.approx(50 * weights[0])
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weights[2] == 1


def test_median_frequency() -> None:
    frequencies = {0: 100 / 152, 1: 50 / 90, 3: 2 / 40}
    expected = {index: median(frequencies.values()) / frequency for index, frequency in frequencies.items()}
    weights = median_frequency(COUNTS)
    assert weights[[0, 1, 3]].tolist() == pytest.approx([expected[index] for index in (0, 1, 3)])
    assert weights[2] == 1


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number(beta: float) -> None:
    raw = [1 / sum(beta**power for power in range(count)) for count in (10, 4, 1)]
    weights = effective_number(COUNTS, beta=beta)
    assert weights[[0, 1, 3]].tolist() == pytest.approx([value / np.mean(raw) for value in raw])
    assert weights[2] == 1


def test_nothing_labelled_weighs_all_alike() -> None:
    empty = count_classes([], CLASSES)
    for weights in (inverse_frequency(empty), median_frequency(empty), effective_number(empty)):
        assert weights.tolist() == [1, 1, 1, 1]
