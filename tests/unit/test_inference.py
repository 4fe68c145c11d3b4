from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from semask.evaluation.metrics import Confusion
from semask.inference import Pipeline, build_predictor, build_prior, predictor_of, rescaled, sliding, tta
from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.recipes import recipe
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.toy_predictors import Toy, bilinear, gradient, patch_model


def test_a_recipe_composes_its_predictor() -> None:
    images = torch.rand(1, 3, 60, 80)
    model = Toy()
    build_predictor(model, recipe.TestRecipe(), DataRecipe())(images)
    assert model.seen == [(1, 3, 60, 80)]

    model = Toy()
    data = DataRecipe(base_scale=(160, 90))
    build_predictor(model, recipe.TestRecipe(mode="sliding", window=(64, 64), stride=(64, 64), batch_size=8), data)(
        images
    )
    assert model.seen == [(4, 3, 64, 64)], "90 × 120 px, two windows each way"

    model = Toy()
    scores = build_predictor(model, recipe.TestRecipe(scales=(0.5, 1.0), flip=True), DataRecipe(base_ratio=0.5))(images)
    assert model.seen == [(1, 3, 15, 20)] * 2 + [(1, 3, 30, 40)] * 2
    torch.testing.assert_close(scores.sum(1), torch.ones(1, 60, 80))

    model = Toy()
    assert build_prior(model, recipe.TestRecipe(), DataRecipe(base_ratio=0.5))(images).shape == (1, 4, 60, 80)
    assert model.seen == [(1, 3, 30, 40)]


def test_a_recipe_enlarges_for_windows_only() -> None:
    images = torch.rand(1, 3, 20, 30)
    windows = {"window": (40, 32), "stride": (32, 16), "batch_size": 99, "enlarge": True}
    seen = []
    for test in (
        recipe.TestRecipe(mode="sliding", **windows),
        recipe.TestRecipe(mode="sliding", **(windows | {"enlarge": False})),
        recipe.TestRecipe(mode="sliding", scales=(0.5, 2.0), **windows),
        recipe.TestRecipe(mode="whole", **windows),
    ):
        model = Toy()
        build_predictor(model, test, DataRecipe())(images)
        seen.append(model.seen)
    one = [(3, 3, 40, 32)]  # 40 × 60 px: the window's larger side, starts 0, 16, 28
    assert seen == [one, [(1, 3, 20, 30)], [*one, *one], [(1, 3, 20, 30)]]


def test_a_recipe_blends_and_counts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def spy(source: Any, **options: Any) -> Pipeline:
        given.update(options)
        return Pipeline(source.lazy_scores)

    monkeypatch.setattr("semask.inference.from_recipe.sliding", spy)
    test = recipe.TestRecipe(mode="sliding", blend="hann", memory_budget=1.5, batch_size=3)
    build_predictor(Toy(), test, DataRecipe())
    assert given == {
        "window": (512, 512),
        "stride": (341, 341),
        "batch_size": 3,
        "blend": "hann",
        "memory_budget": 1.5,
        "meter": None,
        "valid_border": 0,
    }


MODES: dict[str, Callable[[SegmentationModel], Pipeline]] = {
    "whole": rescaled,
    "smaller": lambda model: rescaled(model, ratio=0.5),
    "windows": lambda model: sliding(model, window=(16, 16), stride=(8, 8)),
    "hann": lambda model: sliding(model, window=(16, 16), stride=(8, 8), blend="hann"),
    "enlarged": lambda model: rescaled(sliding(model, window=(16, 16), stride=(8, 8)), enlarge_to=16),
    "tta": lambda model: tta(
        sliding(model, window=(16, 16), stride=(8, 8)), ratios=(0.5, 1.0, 1.75), flip=True, enlarge_to=16
    ),
    "box": lambda model: tta(
        sliding(model, window=(16, 16), stride=(8, 8)), box=(64, 16), ratios=(0.5, 1.0), enlarge_to=16
    ),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_one_pixel_is_an_image(mode: str) -> None:
    scores = MODES[mode](patch_model())(torch.rand(1, 3, 1, 1))
    assert scores.shape == (1, 3, 1, 1)
    assert scores.isfinite().all()
    confusion = Confusion(3)
    confusion.update(scores.argmax(1), torch.zeros(1, 1, 1, dtype=torch.long))
    assert int(confusion.matrix.sum()) == 1


def test_a_strip_is_an_image_unless_it_would_be_enlarged_beyond_all_measure() -> None:
    strip, model = torch.rand(1, 3, 1, 5000), patch_model()
    windows = sliding(model, window=(512, 512), stride=(480, 480), batch_size=4)
    assert windows(strip).shape == model.scores(strip).shape == (1, 3, 1, 5000)
    for predict in (
        rescaled(windows, enlarge_to=512),
        build_predictor(model, recipe.TestRecipe(mode="sliding", enlarge=True), DataRecipe()),
    ):
        with pytest.raises(
            ValueError, match=facts("1×5000", "512×2560000", 512, 64, "--test.mode whole", "--test.enlarge false")
        ):
            predict(strip)


@pytest.fixture
def masks() -> SegmentationModel:
    """Return a mask classifier whose queries have classes of their own, so that scores tell places apart."""
    model = build("scenes/micro-mask2former")
    with torch.no_grad():
        model.decoder.predictor.head.classify.weight.mul_(30)
    return model


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_a_mask_classifier_is_averaged_by_its_scores(masks: SegmentationModel, mode: str) -> None:
    """Two scales, mirrored too, of whole images or windows: once more by hand, without a softmax anywhere."""
    images = torch.rand(1, 3, 40, 56)
    test = recipe.TestRecipe(mode=mode, window=(32, 40), stride=(20, 20), scales=(0.5, 1.0), flip=True)

    def by_hand(seen: Tensor) -> Tensor:
        height, width = seen.shape[-2:]
        if mode == "whole" or (height <= 32 and width <= 40):
            return masks.scores(seen)
        total, visits = torch.zeros(1, 12, height, width), torch.zeros(height, width)
        for y in (0, 8):  # 20 would leave the image
            for x in (0, 16):
                total[..., y : y + 32, x : x + 40] += masks.scores(seen[..., y : y + 32, x : x + 40])
                visits[y : y + 32, x : x + 40] += 1
        return total / visits

    with torch.inference_mode():
        got = build_predictor(masks, test, DataRecipe())(images)
        parts = []
        for size in ((20, 28), (40, 56)):
            seen = bilinear(images, size)
            parts += [bilinear(by_hand(seen), (40, 56)), bilinear(by_hand(seen.flip(-1)).flip(-1), (40, 56))]
        alone = build_predictor(masks, recipe.TestRecipe(), DataRecipe())(images)
        expected = masks.scores(images)
    torch.testing.assert_close(got, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, expected)
    assert float((got.sum(1) - 1).abs().max()) > 0.1, "scores of masks sum to no fixed value"


def test_windows_of_a_mask_classifier_are_at_least_what_it_pads_to(masks: SegmentationModel) -> None:
    with pytest.raises(ValueError, match=facts((31, 32), "32×32")):
        build_predictor(masks, recipe.TestRecipe(mode="sliding", window=(31, 32), stride=(16, 16)), DataRecipe())
    for size in ((1, 1), (5, 70)):
        windows = build_predictor(
            masks, recipe.TestRecipe(mode="sliding", window=(32, 32), stride=(16, 16)), DataRecipe()
        )
        with torch.inference_mode():
            scores = windows(torch.rand(1, 3, *size))
        assert scores.shape == (1, 12, *size)
        assert scores.isfinite().all()


def test_bytes_become_floats_where_a_model_sees_them() -> None:
    pixels = torch.randint(0, 256, (2, 3, 20, 26), dtype=torch.uint8)
    seen: list[tuple[torch.dtype, int]] = []

    def scores(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.dtype, images.shape[-1]))
        return gradient(images)

    for predictor in (
        predictor_of(scores),
        sliding(scores, window=(8, 8), stride=(6, 6)),
        rescaled(sliding(scores, window=(8, 8), stride=(6, 6)), ratio=1.5),
        tta(scores, ratios=(1.0, 0.5), flip=True, enlarge_to=16),
    ):
        torch.testing.assert_close(predictor(pixels), predictor(pixels / 255))
        assert torch.equal(predictor.labels(pixels), predictor.labels(pixels / 255))
    assert {dtype for dtype, _ in seen} == {torch.float32}
