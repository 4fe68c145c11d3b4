from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from semask.evaluation.metrics.calibration import Calibration
from semask.structures import IGNORE
from tests.facts import facts


def maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities n×k, their best class and its probability, and the truth."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(4, 0.3), 600).astype(np.float32)
    truth = random.integers(0, 4, 600).astype(np.uint8)
    truth[random.random(600) < 0.4] = shares.argmax(1)[random.random(600) < 0.4][0]
    truth[random.random(600) < 0.2] = IGNORE
    return shares, shares.argmax(1).astype(np.uint8), shares.max(1), truth


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_torchmetrics(bins: int) -> None:
    shares, best, confidence, truth = maps(0)
    calibration = Calibration(bins)
    for part in np.array_split(np.arange(600), 3):
        calibration.update(best[None, part], confidence[None, part], truth[None, part])
    other = MulticlassCalibrationError(4, n_bins=bins, norm="l1", ignore_index=IGNORE)
    expected = float(other(torch.from_numpy(shares), torch.from_numpy(truth.astype(np.int64))))
    assert calibration.error() == pytest.approx(expected, abs=2e-6)


def test_bins_of_a_loop() -> None:
    _, best, confidence, truth = maps(1)
    calibration = Calibration(7)
    calibration.update(best[None], confidence[None], truth[None])
    rows = calibration.to_dict()["bins"]
    for number, row in enumerate(rows):  # type: ignore[arg-type]
        low, high = number / 7, (number + 1) / 7
        chosen = [i for i in range(600) if truth[i] != IGNORE and (low < confidence[i] <= high)]
        assert row["pixels"] == len(chosen)
        if chosen:
            assert row["confidence"] == pytest.approx(np.mean(confidence[chosen]), abs=1e-6)
            assert row["accuracy"] == pytest.approx(np.mean(best[chosen] == truth[chosen]))
        else:
            assert row["confidence"] is row["accuracy"] is None


def test_order_never_matters_and_ignored_pixels_neither() -> None:
    _, best, confidence, truth = maps(2)
    one, other = Calibration(), Calibration()
    one.update(best[None], confidence[None], truth[None])
    order = np.random.default_rng(0).permutation(600)
    noisy = np.where(truth == IGNORE, 0.123, confidence).astype(np.float32)
    other.update(best[None, order[:200]], noisy[None, order[:200]], truth[None, order[:200]])
    rest = Calibration()
    rest.update(best[None, order[200:]], noisy[None, order[200:]], truth[None, order[200:]])
    other.merge(rest)
    assert one.to_dict() == other.to_dict()


def test_certainty_and_nothing_at_all() -> None:
    calibration = Calibration(5)
    assert calibration.to_dict()["ece"] is None
    calibration.update(np.zeros((1, 2), np.uint8), np.ones((1, 2), np.float32), np.array([[0, 1]], np.uint8))
    assert calibration.error() == 0.5
    with pytest.raises(ValueError, match=facts(1, 0)):
        Calibration(0)
    with pytest.raises(ValueError, match=facts(3, 5)):
        calibration.merge(Calibration(3))
