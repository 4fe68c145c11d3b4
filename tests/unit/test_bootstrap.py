from __future__ import annotations

import numpy as np
import pytest
import torch

from semask.evaluation.metrics import Confusion
from semask.evaluation.metrics.bootstrap import ImageCounts, intervals, statistics
from tests.facts import facts


def images(count: int, *, seed: int = 0, skill: float = 0.7) -> tuple[ImageCounts, list[torch.Tensor]]:
    """Counts of images of 5 classes, of which each holds some only, and their matrices."""
    random = np.random.default_rng(seed)
    truths = [random.choice(random.permutation(5)[:3], 200) for _ in range(count)]
    matrices = []
    for truth in truths:
        guess = np.where(np.random.default_rng(seed + 1).random(200) < skill, truth, random.integers(0, 5, 200))
        confusion = Confusion(5)
        confusion.update(torch.from_numpy(guess), torch.from_numpy(truth))
        matrices.append(confusion.matrix)
    stacked = [np.stack([np.asarray(part) for part in parts]) for parts in zip(*map(_parts, matrices), strict=True)]
    return ImageCounts(*stacked), matrices


def _parts(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return matrix.diagonal(), matrix.sum(0), matrix.sum(1)


def scores_of(matrices: list[torch.Tensor]) -> dict[str, float]:
    confusion = Confusion(5)
    for matrix in matrices:
        confusion.matrix += matrix
    scores = confusion.scores()
    means = {"miou": scores.miou, "macc": scores.macc, "aacc": scores.aacc, "fwiou": scores.fwiou}
    return means | {"dice": scores.mdice}


def test_statistics_are_the_matrix_s_scores() -> None:
    counts, matrices = images(6)
    found = statistics(counts, np.ones((1, 6)))
    for name, value in scores_of(matrices).items():
        assert found[name][0] == pytest.approx(value)
    twice = statistics(counts, np.array([[2.0, 0, 0, 1, 0, 0]]))
    for name, value in scores_of([matrices[0], matrices[0], matrices[3]]).items():
        assert twice[name][0] == pytest.approx(value)


def test_intervals_are_percentiles_of_resamples_drawn_one_by_one() -> None:
    counts, matrices = images(12)
    found = intervals(counts, resamples=4000)
    random = np.random.default_rng(9)
    drawn = [scores_of([matrices[i] for i in random.integers(0, 12, 12)])["miou"] for _ in range(1500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert found["miou"].low == pytest.approx(low, abs=0.12 * width)
    assert found["miou"].high == pytest.approx(high, abs=0.12 * width)
    assert found["iou"].low.shape == (5,)
    again = intervals(counts, resamples=4000)
    assert all(np.array_equal(found[name], again[name]) for name in found), "seeded"


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    """aAcc of images whose accuracy varies; the mean over many is known."""
    covered = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        right = random.binomial(100, random.beta(8, 2, 40))
        counts = ImageCounts(right[:, None], np.full((40, 1), 100), np.full((40, 1), 100))
        limits = intervals(counts, resamples=400, seed=seed)["aacc"]
        covered += bool(limits.low <= 0.8 <= limits.high)
    assert 0.86 <= covered / 120 <= 1.0


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    good, _ = images(30, skill=0.8)
    worse, _ = images(30, skill=0.78)
    limits = intervals(good, worse)["miou"]
    value = statistics(good, np.ones((1, 30)))["miou"][0] - statistics(worse, np.ones((1, 30)))["miou"][0]
    assert limits.low < value < limits.high
    alone = intervals(good)["miou"]
    assert limits.high - limits.low < 0.5 * (alone.high - alone.low)
    same = intervals(good, good)["miou"]
    assert (float(same.low), float(same.high)) == (0.0, 0.0)


def test_what_is_undefined_stays_so_in_silence() -> None:
    counts, _ = images(1)
    assert all(np.isnan(limits.low).all() and np.isnan(limits.high).all() for limits in intervals(counts).values())
    empty = ImageCounts(*(np.zeros((3, 2), np.int64) for _ in range(3)))
    assert np.isnan(intervals(empty)["miou"].low)
    assert np.isnan(empty.miou()).all()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match=facts(1, 0)):
        intervals(images(3)[0], resamples=0)
    with pytest.raises(ValueError, match=facts((3, 5), (4, 5))):
        intervals(images(3)[0], images(4)[0])
