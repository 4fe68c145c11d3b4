"""Every count of an evaluation against loops, and against itself in another order, split, or with other ignored pixels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.evaluation import Measures, MetricAccumulator, evaluate_model
from semask.evaluation.record import measured
from semask.structures import IGNORE, Sample
from tests.facts import facts


class Labelled(NamedTuple):
    name: str
    prediction: torch.Tensor
    truth: torch.Tensor
    confidence: torch.Tensor


def image(number: int, num_classes: int, size: tuple[int, int], *, ignored: float) -> Labelled:
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randint(0, num_classes, (2, -(-size[0] // 3), -(-size[1] // 3)), generator=generator)
    prediction, truth = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, : size[0], : size[1]].to(torch.uint8)
    truth = torch.where(torch.rand(size, generator=generator) < ignored, IGNORE, truth).to(torch.uint8)
    return Labelled(str(number), prediction, truth, torch.rand(size, generator=generator))


MEASURES = Measures(areas=(4, 20))
SIZES = [(1, 1), (7, 12), (20, 5), (16, 16)]


def images(count: int, num_classes: int = 4, *, ignored: float = 0.2) -> list[Labelled]:
    return [image(i, num_classes, SIZES[i % 4], ignored=ignored) for i in range(count)]


def accumulate(shown: list[Labelled], num_classes: int = 4) -> MetricAccumulator:
    accumulator = MetricAccumulator(num_classes, MEASURES)
    for name, prediction, truth, confidence in shown:
        accumulator.update(name, prediction, truth, confidence)
    return accumulator


def results(accumulator: MetricAccumulator) -> dict[str, object]:
    return measured(accumulator, [f"class {i}" for i in range(accumulator.confusion.num_classes)], resamples=50)


def oracle(shown: list[Labelled], num_classes: int) -> dict[str, float]:
    """Pixel by pixel, with sets of what each class holds."""
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for one in shown:
        for y, x in itertools.product(*map(range, one.truth.shape)):
            t, p = int(one.truth[y, x]), int(one.prediction[y, x])
            if t != IGNORE:
                matrix[t][p] += 1
    total = sum(map(sum, matrix))
    iou, accuracy, dice, weighted = [], [], [], 0.0
    for k in range(num_classes):
        labelled, predicted = sum(matrix[k]), sum(row[k] for row in matrix)
        if labelled + predicted:
            iou.append(matrix[k][k] / (labelled + predicted - matrix[k][k]))
            dice.append(2 * matrix[k][k] / (labelled + predicted))
            weighted += iou[-1] * labelled / total if total else 0
        if labelled:
            accuracy.append(matrix[k][k] / labelled)
    nan = float("nan")
    return {
        "miou": sum(iou) / len(iou) if iou else nan,
        "macc": sum(accuracy) / len(accuracy) if accuracy else nan,
        "dice": sum(dice) / len(dice) if dice else nan,
        "aacc": sum(matrix[k][k] for k in range(num_classes)) / total if total else nan,
        "fwiou": weighted if total else nan,
    }


@pytest.mark.parametrize(("num_classes", "ignored"), [(1, 0.2), (2, 0.0), (4, 0.3), (4, 1.0), (200, 0.1)])
def test_scores_of_a_loop(num_classes: int, ignored: float) -> None:
    shown = images(5, num_classes, ignored=ignored)
    scores = results(accumulate(shown, num_classes))["scores"]
    for name, value in oracle(shown, num_classes).items():
        found = scores[name]  # type: ignore[index]
        assert (float("nan") if found is None else found) == pytest.approx(value, nan_ok=True), name


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 8), st.integers(0, 10**6))
def test_order_splits_and_ignored_pixels_never_matter(order: list[int], cut: int, seed: int) -> None:
    shown = images(8)
    whole = results(accumulate(shown))
    generator = torch.Generator().manual_seed(seed)
    changed = []
    for index in order:
        name, prediction, truth, confidence = shown[index]
        noise = torch.randint(0, 4, truth.shape, generator=generator).to(torch.uint8)
        hidden = truth == IGNORE
        sure = torch.where(hidden, torch.rand(truth.shape, generator=generator), confidence)
        changed.append(Labelled(name, torch.where(hidden, noise, prediction), truth, sure))
    first, second = accumulate(changed[:cut]), accumulate(changed[cut:])
    first.merge(second)
    assert results(first) == whole


class Shown:
    """Images as a data set, of the colours of what a model is to predict."""

    def __init__(self, count: int) -> None:
        self.images = images(count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        name, prediction, truth, _ = self.images[index]
        return Sample(prediction.float().expand(3, -1, -1) / 4, truth, name)


def scores_of_colours(images: torch.Tensor) -> torch.Tensor:
    return -((4 * images[:, :1] - torch.arange(4.0)[:, None, None]) ** 2)


def evaluated(count: int) -> dict[str, object]:
    return results(evaluate_model(scores_of_colours, Shown(count), num_classes=4, measures=MEASURES))


def _process(rank: int, world_size: int, folder: str, counts: tuple[int, ...]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    torch.save([evaluated(count) for count in counts], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_count_the_same_as_one_even_one_without_any_image(tmp_path: Path) -> None:
    # forked, as the workers of a loader are: what a new process imports takes longer than all else
    torch.multiprocessing.start_processes(_process, args=(3, str(tmp_path), (7, 2)), nprocs=3, start_method="fork")
    alone = [evaluated(7), evaluated(2)]
    assert alone[0]["scores"] == results(accumulate(images(7)))["scores"]
    for rank in range(3):
        assert torch.load(tmp_path / f"{rank}.pt") == alone


def test_an_image_counts_once() -> None:
    shown = images(2)
    accumulator = accumulate(shown)
    with pytest.raises(ValueError, match=facts("'1'")):
        accumulator.update(*shown[1])
    with pytest.raises(ValueError, match=facts("'0'")):
        accumulator.merge(accumulate(shown[:1]))


def test_scores_that_are_nan_are_refused() -> None:
    accumulator, shown = MetricAccumulator(4), images(2)[1]
    sure = shown.confidence.clone()
    sure[2, 3:5] = float("nan")
    with pytest.raises(FloatingPointError, match=facts("'1'", 2, 84)):
        accumulator.update(shown.name, shown.prediction, shown.truth, sure)
    assert not accumulator.images


def test_what_is_not_asked_for_is_not_counted() -> None:
    accumulator = MetricAccumulator(4, Measures(boundary=False, areas=(), bins=0))
    assert accumulator.calibration is None
    accumulator.update(*images(2)[1][:3])
    record = measured(accumulator, "abcd", resamples=0)
    assert record.keys() == {"scores", "never_predicted"}
    assert np.isfinite(record["scores"]["aacc"])
