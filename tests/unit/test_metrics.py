from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.evaluation.metrics import Confusion
from semask.structures import IGNORE
from tests.facts import facts


def counted(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> Confusion:
    confusion = Confusion(num_classes)
    confusion.update(prediction, truth)
    return confusion


def oracle(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t != IGNORE:
            matrix[t, p] += 1
    return matrix


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    num_classes = draw(st.integers(1, 6))
    size = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    prediction = torch.randint(0, num_classes, (size,), generator=generator)
    truth = torch.randint(0, num_classes, (size,), generator=generator)
    truth[torch.rand(size, generator=generator) < draw(st.floats(0, 1))] = IGNORE
    return prediction, truth, num_classes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_matrix_equals_a_loop_over_pixels(dtype: torch.dtype) -> None:
    prediction = torch.randint(0, 7, (2, 19, 23)).to(dtype)
    truth = torch.randint(0, 7, (2, 19, 23)).to(dtype)
    truth[:, 4:9] = IGNORE
    assert np.array_equal(counted(prediction, truth, 7).matrix.numpy(), oracle(prediction.numpy(), truth.numpy(), 7))


def test_numbers_by_hand() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, IGNORE])
    prediction = torch.tensor([0, 0, 1, 1, 2, 3])
    scores = counted(prediction, truth, 4).scores()
    assert scores.iou[:3].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert math.isnan(scores.iou[3]), "class 3 is predicted on an ignored pixel only"
    assert scores.accuracy[:2].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert scores.accuracy[2:].isnan().all()
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.macc == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.aacc == pytest.approx(3 / 5)
    assert scores.pixels.tolist() == [3, 2, 0, 0]


def test_iou_agrees_with_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    prediction, truth = torch.randint(0, 9, (3, 40, 31)), torch.randint(0, 9, (3, 40, 31))
    truth[torch.rand(truth.shape) < 0.2] = IGNORE
    scores = counted(prediction, truth, 9).scores()
    other = MulticlassJaccardIndex(9, average="none", ignore_index=IGNORE)(prediction, truth)
    torch.testing.assert_close(scores.iou.float(), other)
    mean = MulticlassJaccardIndex(9, average="macro", ignore_index=IGNORE)(prediction, truth)
    assert scores.miou == pytest.approx(float(mean), abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(1, 30), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 10**6))
def test_adversarial_maps_agree_with_torchmetrics(num_classes: int, size: int, ignored: float, seed: int) -> None:
    """Few pixels, so that classes are absent from truth, prediction or both; torchmetrics calls what is undefined 0."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, num_classes, (size,), generator=generator)
    truth = torch.randint(0, max(1, num_classes - 1), (size,), generator=generator)
    truth[torch.rand(size, generator=generator) < ignored] = IGNORE
    scores = counted(prediction, truth, num_classes).scores()
    for ours, other in (
        (scores.iou, MulticlassJaccardIndex(num_classes, average="none", ignore_index=IGNORE)),
        (scores.dice, MulticlassF1Score(num_classes, average="none", ignore_index=IGNORE)),
        (scores.accuracy, MulticlassAccuracy(num_classes, average="none", ignore_index=IGNORE)),
    ):
        torch.testing.assert_close(ours.nan_to_num(0.0).float(), other(prediction, truth))
    overall = MulticlassAccuracy(num_classes, average="micro", ignore_index=IGNORE)(prediction, truth)
    assert (0.0 if math.isnan(scores.aacc) else scores.aacc) == pytest.approx(float(overall))
    held = {*truth.tolist()} - {IGNORE} | {*prediction[truth != IGNORE].tolist()}
    assert [not math.isnan(value) for value in scores.iou.tolist()] == [k in held for k in range(num_classes)]


@settings(deadline=None, max_examples=60)
@given(label_maps(), st.randoms(use_true_random=False))
def test_order_splitting_and_ignored_pixels_never_matter(
    maps: tuple[torch.Tensor, torch.Tensor, int], random: object
) -> None:
    prediction, truth, k = maps
    whole = counted(prediction, truth, k).matrix
    order = list(range(len(truth)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(counted(prediction[order], truth[order], k).matrix, whole)

    cut = len(order) // 2
    first, second = counted(prediction[:cut], truth[:cut], k), counted(prediction[cut:], truth[cut:], k)
    first.merge(second)
    assert torch.equal(first.matrix, whole)

    anything = torch.where(truth == IGNORE, torch.full_like(prediction, 10_000), prediction)
    assert torch.equal(counted(anything, truth, k).matrix, whole)
    assert int(whole.sum()) == int((truth != IGNORE).sum())


def test_values_that_are_no_class_are_named() -> None:
    good = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=facts(3, 2, 0, 255)):
        counted(good, torch.tensor([3, 3, 1]), 3)
    with pytest.raises(ValueError, match=facts(-1, 1, 255)):
        counted(good, torch.tensor([-1, 0, 1]), 3)
    with pytest.raises(ValueError, match=facts(7, 1, 0, 2)):
        counted(torch.tensor([7, 0, 1]), good, 3)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match=facts((2, 3), (3, 2))):
        counted(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64), 2)
    for num_classes in (0, 256):
        with pytest.raises(ValueError, match=facts("num_classes", 1, 255, num_classes)):
            Confusion(num_classes)
    with pytest.raises(ValueError, match=facts(3, 2)):
        Confusion(2).merge(Confusion(3))


def test_an_empty_matrix_has_undefined_scores() -> None:
    scores = Confusion(3).scores()
    assert all(math.isnan(value) for value in (scores.miou, scores.macc, scores.aacc))


def test_scores_become_json_with_null_for_undefined() -> None:
    record = counted(torch.tensor([0, 1]), torch.tensor([0, 0]), 3).scores().to_dict(["sky", "road", "car"])
    text = json.loads(json.dumps(record, allow_nan=False))
    assert text["pixels"] == 2
    assert text["classes"][0] == {"name": "sky", "iou": 0.5, "accuracy": 0.5, "dice": 2 / 3, "pixels": 2}
    assert text["classes"][1]["iou"] == 0.0
    assert text["classes"][1]["accuracy"] is None
    assert text["classes"][2]["iou"] is None
    with pytest.raises(ValueError, match=facts(3, 2)):
        counted(torch.tensor([0]), torch.tensor([0]), 3).scores().to_dict(["sky", "road"])


def test_reduce_alone_is_a_copy() -> None:
    confusion = counted(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    total = confusion.reduce()
    total.update(torch.tensor([0]), torch.tensor([0]))
    assert int(confusion.matrix.sum()) == 2
