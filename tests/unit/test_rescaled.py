from __future__ import annotations

import importlib

import pytest
import torch

from semask.inference import rescaled, sliding, tta
from semask.ops.resize import enlarged_size, fit_size
from tests.facts import facts
from tests.unit.toy_predictors import Toy, bilinear, gradient, pointwise, watched


def test_rescaled_goes_there_and_back_bilinearly() -> None:
    images = torch.rand(2, 3, 30, 47)
    size = fit_size(30, 47, (64, 40), 1.25)
    expected = bilinear(gradient(bilinear(images, size)), (30, 47))
    torch.testing.assert_close(rescaled(gradient, box=(64, 40), ratio=1.25)(images), expected)


def test_rescaled_by_a_ratio_of_the_own_size() -> None:
    model = Toy()
    scores = rescaled(model, ratio=0.5)(torch.rand(1, 3, 30, 48))
    assert model.seen == [(1, 3, 15, 24)]
    assert scores.shape == (1, 6, 30, 48)
    assert torch.equal(rescaled(gradient)(images := torch.rand(1, 3, 31, 9)), gradient(images))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((50, 69), 64, (64, 88)),  # 69/50·64 = 88.32
        ((69, 50), 64, (88, 64)),
        ((7, 7), 64, (64, 64)),
        ((1, 1), 512, (512, 512)),
        ((63, 200), 64, (64, 203)),  # 203.17
        ((64, 65), 64, (64, 65)),
        ((100, 70), 64, (100, 70)),
    ],
)
def test_small_images_are_enlarged_until_their_short_side_fills_the_window(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert enlarged_size(*size, side) == expected
    predict, seen = watched(gradient)
    images = torch.rand(1, 3, *size)
    scores = rescaled(predict, enlarge_to=side)(images)
    assert seen == [(1, 3, *expected)]
    torch.testing.assert_close(scores, bilinear(gradient(bilinear(images, expected)), size))
    assert torch.equal(rescaled(gradient, enlarge_to=None)(images), gradient(images))


def test_scores_of_an_enlarged_image_are_resized_once() -> None:
    """Straight from the enlarged to the original size, not by way of the scaled size."""
    images = torch.rand(1, 3, 40, 60)
    enlarged = bilinear(bilinear(images, (10, 15)), (32, 48))
    straight = bilinear(gradient(enlarged), (40, 60))
    detour = bilinear(bilinear(gradient(enlarged), (10, 15)), (40, 60))
    got = rescaled(gradient, ratio=0.25, enlarge_to=32)(images)
    torch.testing.assert_close(got, straight)
    assert not torch.allclose(got, detour, atol=1e-2)


def test_windows_may_begin_between_the_bands_of_a_small_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of an image much smaller than what is scored leave rows of that out, where windows begin too."""
    images = torch.rand(1, 3, 37, 23)
    windows = sliding(pointwise, window=(16, 16), stride=(13, 13))
    for ratio, side in ((3.5, None), (1.0, 96), (6.1, 40)):
        predict = rescaled(windows, ratio=ratio, enlarge_to=side)
        whole = rescaled(pointwise, ratio=ratio, enlarge_to=side)(images)
        for numbers in (100, 300, 900):
            monkeypatch.setattr("semask.ops.lazy_scores.NUMBERS", numbers)
            torch.testing.assert_close(predict(images), whole)


def test_only_enlarging_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("semask.inference.tta"), "MAX_ENLARGED_PIXELS", 100)
    assert rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 9, 9)).shape == (1, 4, 9, 9)
    assert rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 20, 30)).shape == (1, 4, 20, 30)
    with pytest.raises(ValueError, match=facts("9×10", "10×11", 10, "--test.mode whole", "--test.enlarge false")):
        rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 9, 10))


def test_impossible_scales_are_refused() -> None:
    for box, ratio in (((0, 5), 1.0), (None, 0.0), (None, -1.0)):
        with pytest.raises(ValueError, match=facts(box, ratio)):
            rescaled(pointwise, box=box, ratio=ratio)
    with pytest.raises(ValueError, match=facts((0.5, 0.75, 1.0, 1.25, 1.5, 1.75))):
        tta(pointwise, ratios=())
    with pytest.raises(ValueError, match=facts(1, 0)):
        rescaled(pointwise, enlarge_to=0)
