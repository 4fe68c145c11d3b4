from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from semask import inference
from semask.geometry import enlarged_size, fit_size
from semask.inference import Blend, Model, Predictor, build_predictor, build_prior, rescaled, sliding, tta
from semask.metrics import Confusion
from semask.model import SegmentationModel
from semask.recipes import recipe
from semask.recipes.recipe import DataRecipe
from semask.structures import Features, PixelLogits


def pointwise(images: Tensor) -> Tensor:
    """Four exact integers per pixel that depend on that pixel alone."""
    red, green, blue = (images * 256).round().unbind(1)
    return torch.stack([red, green, blue, red - blue], dim=1)


def gradient(images: Tensor) -> Tensor:
    """Scores that depend on the neighbour at the right: not equivariant to flips."""
    return torch.cat([images, images.roll(-1, dims=-1)], dim=1)


def symmetric(images: Tensor) -> Tensor:
    """A blur: equivariant to flips, and no pixel stands alone."""
    return F.avg_pool2d(images, 3, stride=1, padding=1)


def positional(images: Tensor) -> Tensor:
    """Scores that depend on where a pixel lies in what the model sees, and on its neighbour below."""
    height, width = images.shape[-2:]
    down, across = torch.meshgrid(torch.arange(height) / 7, torch.arange(width) / 5, indexing="ij")
    return images * torch.cos(down + 2 * across) + images.roll(-1, dims=-2) * torch.sin(across)


class Toy:
    """Scores by a fixed function; remembers the sizes it saw."""

    size_multiple = 8

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def scores(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return gradient(images)

    def prior_scores(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return pointwise(images)


def watched(predictor: Predictor) -> tuple[Predictor, list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return predictor(images)

    return predict, seen


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (32, 32), (33, 47), (97, 61)])
@pytest.mark.parametrize("stride", [(32, 24), (11, 7)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_of_a_pointwise_model_change_nothing(
    size: tuple[int, int], stride: tuple[int, int], batch_size: int
) -> None:
    images = (torch.rand(2, 3, *size) * 256).floor() / 256
    predict = sliding(pointwise, window=(32, 24), stride=stride, batch_size=batch_size)
    torch.testing.assert_close(predict(images), pointwise(images), rtol=1e-6, atol=0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_windows_at_all_change_a_pointwise_model(data: st.DataObject) -> None:
    side = st.integers(1, 24)
    window = data.draw(st.tuples(side, side), label="window")
    stride = data.draw(st.tuples(st.integers(1, window[0]), st.integers(1, window[1])), label="stride")
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)), label="size")
    images = torch.randint(0, 256, (data.draw(st.integers(1, 3)), 3, *size)) / 256
    predict = sliding(
        pointwise,
        window=window,
        stride=stride,
        batch_size=data.draw(st.integers(1, 40), label="batch"),
        blend=data.draw(st.sampled_from(["mean", "hann"])),
        memory_budget=data.draw(st.sampled_from([None, 1e-9, 8.0])),
    )
    torch.testing.assert_close(predict(images), pointwise(images), rtol=2e-6, atol=0)


def weights_of_window(height: int, width: int, blend: Blend) -> np.ndarray:
    weights = np.ones((height, width))
    if blend == "hann":
        for i, j in itertools.product(range(height), range(width)):
            weights[i, j] = math.sin(math.pi * (i + 0.5) / height) ** 2 * math.sin(math.pi * (j + 0.5) / width) ** 2
    return weights


@pytest.mark.parametrize("blend", ["mean", "hann"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_overlapping_windows_are_averaged_pixel_by_pixel(blend: Blend, batch_size: int) -> None:
    """A brute-force sum over window positions and pixels, with scores that differ between windows."""
    images = torch.rand(2, 3, 13, 22)

    total, mass = np.zeros((2, 3, 13, 22)), np.zeros((13, 22))
    weights = weights_of_window(8, 10, blend)
    for y, x in itertools.product((0, 4, 5), (0, 5, 10, 12)):  # 13 - 8 = 5 and 22 - 10 = 12 are the border's
        scores = positional(images[..., y : y + 8, x : x + 10]).numpy()
        for i, j in itertools.product(range(8), range(10)):
            total[..., y + i, x + j] += scores[..., i, j] * weights[i, j]
            mass[y + i, x + j] += weights[i, j]
    got = sliding(positional, window=(8, 10), stride=(4, 5), batch_size=batch_size, blend=blend)(images)
    np.testing.assert_allclose(got.numpy(), total / mass, atol=1e-6, rtol=0)
    other = sliding(positional, window=(8, 10), stride=(4, 5), blend="hann" if blend == "mean" else "mean")(images)
    assert (other - got).abs().max() > 0.05


def test_a_pass_holds_windows_of_several_images() -> None:
    predict, seen = watched(gradient)
    sliding(predict, window=(8, 8), stride=(8, 8), batch_size=4)(torch.rand(3, 3, 8, 16))
    assert seen == [(4, 3, 8, 8), (2, 3, 8, 8)]


def test_an_image_smaller_than_the_window_is_taken_whole() -> None:
    model = Toy()
    images = torch.rand(1, 3, 10, 50)
    sliding(model, window=(32, 32), stride=(16, 16), batch_size=2)(images)
    assert model.seen == [(2, 3, 10, 32), (1, 3, 10, 32)]


def test_scores_of_windows_can_be_learnt_from() -> None:
    images = torch.rand(1, 3, 9, 14)
    weight = torch.rand(4, 3, 1, 1, requires_grad=True)
    for blend in ("mean", "hann"):
        out = tta(
            sliding(lambda x: F.conv2d(x, weight), window=(4, 6), stride=(3, 3), blend=blend), ratios=(1.0,), flip=True
        )(images)
        (found,) = torch.autograd.grad(out[:, 0].sum(), weight)
        (expected,) = torch.autograd.grad(F.conv2d(images, weight).softmax(1)[:, 0].sum(), weight)
        torch.testing.assert_close(found, expected)


def test_rescaled_goes_there_and_back_bilinearly() -> None:
    images = torch.rand(2, 3, 30, 47)
    size = fit_size(30, 47, (64, 40), 1.25)
    expected = bilinear(gradient(bilinear(images, size)), (30, 47))
    assert torch.equal(rescaled(gradient, box=(64, 40), ratio=1.25)(images), expected)


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
    assert torch.equal(got, straight)
    assert not torch.allclose(got, detour, atol=1e-2)


def test_flip_leaves_a_symmetric_model_as_it_is() -> None:
    images = torch.rand(2, 3, 17, 26)
    once, twice = tta(symmetric, ratios=(1.0,)), tta(symmetric, ratios=(1.0,), flip=True)
    torch.testing.assert_close(twice(images), once(images))
    torch.testing.assert_close(once(images), symmetric(images).softmax(1))
    windows = sliding(symmetric, window=(17, 10), stride=(8, 8))  # 0, 8, 16: mirrored the same
    torch.testing.assert_close(tta(windows, ratios=(1.0,), flip=True)(images), tta(windows, ratios=(1.0,))(images))


def test_several_scales_in_the_papers_order() -> None:
    """Logits → original size → softmax → un-flip → mean; softmax before resizing would differ."""
    images = torch.rand(1, 3, 24, 36) * 8
    maps, other_order = [], []
    for ratio in (0.5, 1.0, 1.75):
        size = fit_size(24, 36, (40, 30), ratio)
        for flip in (False, True):
            seen = bilinear(images.flip(-1) if flip else images, size)
            probabilities = bilinear(gradient(seen), (24, 36)).softmax(1)
            early = bilinear(gradient(seen).softmax(1), (24, 36))
            maps.append(probabilities.flip(-1) if flip else probabilities)
            other_order.append(early.flip(-1) if flip else early)
    got = tta(gradient, box=(40, 30), ratios=(0.5, 1.0, 1.75), flip=True)(images)
    torch.testing.assert_close(got, torch.stack(maps).mean(0))
    torch.testing.assert_close(got.sum(1), torch.ones(1, 24, 36))
    assert not torch.allclose(got, torch.stack(other_order).mean(0), atol=1e-4)


def segmenter_protocol(image: np.ndarray, window: int, stride: int, ratios: tuple[float, ...]) -> np.ndarray:
    """Segmenter's protocol (steps 1 to 5 and the mean), once more and plainly, for one image 3×H×W fitted to itself."""
    _, ori_height, ori_width = image.shape
    versions = []
    for ratio in ratios:
        box = int(max(ori_height, ori_width) * ratio), int(min(ori_height, ori_width) * ratio)
        factor = min(box[0] / max(ori_height, ori_width), box[1] / min(ori_height, ori_width))
        size = int(ori_height * factor + 0.5), int(ori_width * factor + 0.5)
        scaled = bilinear(torch.from_numpy(image)[None], size)
        for flip in (False, True):
            version = torch.flip(scaled, (3,)) if flip else scaled
            height, width = size
            if min(height, width) < window:
                if height < width:
                    height, width = window, int(width / height * window)
                else:
                    height, width = int(height / width * window), window
                version = bilinear(version, (height, width))
            sums, visits = np.zeros((3, height, width)), np.zeros((height, width))
            anchors_down = [y for y in range(0, height, stride) if y < height - window] + [height - window]
            anchors_across = [x for x in range(0, width, stride) if x < width - window] + [width - window]
            for y in anchors_down:
                for x in anchors_across:
                    logits = positional(version[:, :, y : y + window, x : x + window])[0].numpy()
                    sums[:, y : y + window, x : x + window] += logits
                    visits[y : y + window, x : x + window] += 1
            mean = bilinear(torch.from_numpy(sums / visits)[None], (ori_height, ori_width))[0].numpy()
            if flip:
                mean = mean[:, :, ::-1]
            exponentials = np.exp(mean - mean.max(0))
            versions.append(exponentials / exponentials.sum(0))
    return np.mean(versions, axis=0)


@given(
    st.tuples(st.integers(2, 30), st.integers(2, 30)),  # at half of one pixel the two round differently
    st.integers(5, 20),
    st.floats(0.5, 1.0),
    st.sampled_from([(1.0,), (0.5, 1.0, 1.75)]),
    st.integers(1, 50),
)
@settings(max_examples=20, deadline=None)
def test_segmenters_protocol(
    size: tuple[int, int], window: int, share: float, ratios: tuple[float, ...], batch_size: int
) -> None:
    stride = int(window * share)
    images = torch.rand(1, 3, *size) * 6
    predict = tta(
        sliding(positional, window=(window, window), stride=(stride, stride), batch_size=batch_size),
        ratios=ratios,
        flip=True,
        enlarge_to=window,
    )
    expected = segmenter_protocol(images[0].numpy(), window, stride, ratios)
    np.testing.assert_allclose(predict(images)[0].numpy(), expected, atol=2e-5, rtol=0)


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
    assert build_prior(model, DataRecipe(base_ratio=0.5))(images).shape == (1, 4, 60, 80)
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

    def spy(source: Model, **options: Any) -> Predictor:
        given.update(options)
        return source.scores

    monkeypatch.setattr(inference, "sliding", spy)
    test = recipe.TestRecipe(mode="sliding", blend="hann", memory_budget=1.5, batch_size=3)
    build_predictor(Toy(), test, DataRecipe())
    assert given == {
        "window": (512, 512),
        "stride": (341, 341),
        "batch_size": 3,
        "blend": "hann",
        "memory_budget": 1.5,
    }


@pytest.mark.parametrize(("budget", "place"), [(None, "cuda"), (1.0, "cuda"), (1e-6, "cpu")])
def test_scores_over_the_budget_are_gathered_by_the_processor(budget: float | None, place: str) -> None:
    """Fake tensors know devices that this machine lacks, and refuse to mix them."""
    with FakeTensorMode():
        images = torch.empty(1, 3, 20, 30, device="cuda")
        windows = sliding(gradient, window=(8, 8), stride=(4, 4), memory_budget=budget)
        for predict in (windows, rescaled(windows, ratio=2.0), tta(windows, ratios=(0.5, 1.0), flip=True)):
            assert predict(images).device.type == place


def test_the_budget_counts_four_bytes_a_score() -> None:
    needed = 2 * 6 * 20 * 30 * 4 / 2**30
    with FakeTensorMode():
        images = torch.empty(2, 3, 20, 30, device="cuda")
        for budget, place in ((needed, "cuda"), (needed * 0.999, "cpu")):
            predict = sliding(gradient, window=(8, 8), stride=(8, 8), memory_budget=budget)
            assert predict(images).device.type == place


@pytest.mark.parametrize("ratios", [(0.5, 2.0, 1.0), (2.0, 0.5)])
def test_versions_on_both_sides_of_the_budget_are_added_by_the_processor(ratios: tuple[float, ...]) -> None:
    with FakeTensorMode():
        images = torch.empty(1, 3, 20, 30, device="cuda")
        windows = sliding(gradient, window=(8, 8), stride=(8, 8), memory_budget=6 * 20 * 30 * 4 / 2**30)
        assert [rescaled(windows, ratio=ratio)(images).device.type for ratio in (0.5, 2.0)] == ["cuda", "cpu"]
        assert tta(windows, ratios=ratios)(images).device.type == "cpu"


class Patches(nn.Module):
    """An encoder of patches of 4 px: their mean colours."""

    size_multiple = 4

    def forward(self, images: Tensor) -> Features:
        return Features((F.avg_pool2d(images, 4),))


class Colours(nn.Module):
    def forward(self, features: Features) -> PixelLogits:
        return PixelLogits(features.maps[0])


def patch_model() -> SegmentationModel:
    return SegmentationModel(Patches(), Colours(), num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)


MODES: dict[str, Callable[[SegmentationModel], Predictor]] = {
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
        with pytest.raises(ValueError, match=r"1×5000 px .* 512×2560000 px .* 64 megapixels.* Crop .* whole"):
            predict(strip)


def test_only_enlarging_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_ENLARGED_PIXELS", 100)
    assert rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 9, 9)).shape == (1, 4, 9, 9)
    assert rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 20, 30)).shape == (1, 4, 20, 30)
    with pytest.raises(ValueError, match="10×11 px"):
        rescaled(pointwise, enlarge_to=10)(torch.rand(1, 3, 9, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (0, 8)}, "at least 1 pixel"),
        ({"window": (-8, 8)}, "at least 1 pixel"),
        ({"stride": (0, 4)}, "at least 1 pixel"),
        ({"stride": (4, 9)}, "gaps.*no larger than the window"),
        ({"stride": (9, 4)}, "gaps.*no larger than the window"),
        ({"batch_size": 0}, "batch_size"),
        ({"blend": "cosine"}, "mean or hann, got 'cosine'"),
        ({"memory_budget": 0.0}, "more than 0 GiB"),
        ({"memory_budget": -1.0}, "more than 0 GiB"),
        ({"memory_budget": math.nan}, "more than 0 GiB"),
    ],
)
def test_impossible_windows_are_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"window": (8, 8), "stride": (4, 4), **options}
    # Bad values are told in words also where types are not checked.
    unchecked = getattr(sliding, "__wrapped__", sliding)
    with pytest.raises(ValueError, match=message):
        unchecked(pointwise, **arguments)


def test_a_window_smaller_than_the_patch_is_refused() -> None:
    model = patch_model()
    for window in ((3, 16), (16, 3)):
        with pytest.raises(ValueError, match=r"window of .* smaller .* 4×4 px .* at least that"):
            sliding(model, window=window, stride=(1, 1))
    assert sliding(model, window=(4, 4), stride=(4, 4))(torch.rand(1, 3, 2, 9)).shape == (1, 3, 2, 9)


def test_impossible_scales_are_refused() -> None:
    for box, ratio in (((0, 5), 1.0), (None, 0.0), (None, -1.0)):
        with pytest.raises(ValueError, match="must be positive"):
            rescaled(pointwise, box=box, ratio=ratio)
    with pytest.raises(ValueError, match="at least one ratio"):
        tta(pointwise, ratios=())
    with pytest.raises(ValueError, match="at least 1 pixel; got 0"):
        rescaled(pointwise, enlarge_to=0)
