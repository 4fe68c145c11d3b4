from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semask import recipes
from semask.inference import Blend, build_predictor, build_prior, sliding, tta
from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.recipes import DataRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import SemanticLayers
from tests.facts import facts
from tests.unit.toy_predictors import Toy, gradient, patch_model, pointwise, positional, watched


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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": (0, 8)}, (1, "window", (0, 8), "stride", (4, 4))),
        ({"window": (-8, 8)}, (1, "window", (-8, 8), "stride", (4, 4))),
        ({"stride": (0, 4)}, (1, "window", (8, 8), "stride", (0, 4))),
        ({"stride": (4, 9)}, ((4, 9), (8, 8), "--test.window", "--test.stride")),
        ({"stride": (9, 4)}, ((9, 4), (8, 8), "--test.window", "--test.stride")),
        ({"batch_size": 0}, ("batch_size", 1, 0)),
        ({"blend": "cosine"}, ("mean", "hann", "'cosine'")),
    ],
)
def test_impossible_windows_are_refused(options: dict[str, Any], told: tuple[object, ...]) -> None:
    arguments: dict[str, Any] = {"window": (8, 8), "stride": (4, 4), **options}
    # Bad values are told in words also where types are not checked.
    unchecked = getattr(sliding, "__wrapped__", sliding)
    with pytest.raises(ValueError, match=facts(*told)):
        unchecked(pointwise, **arguments)


def test_a_window_smaller_than_the_patch_is_refused() -> None:
    model = patch_model()
    for window in ((3, 16), (16, 3)):
        with pytest.raises(ValueError, match=facts(window, "4×4")):
            sliding(model, window=window, stride=(1, 1))
    assert sliding(model, window=(4, 4), stride=(4, 4))(torch.rand(1, 3, 2, 9)).shape == (1, 3, 2, 9)


def test_a_model_of_a_fixed_size_sees_any_image_through_windows() -> None:
    """Whole mode included: what it cannot take at once it is never given."""
    encoder = encoder_options("hiera_tiny_224", weights=None, semantic=SemanticLayers())
    data = DataRecipe(crop=(64, 96))
    recipe = Recipe(
        name="test/fixed",
        data=data,
        model=ModelRecipe(encoder=encoder, decoder=decoder_options("semantic_fpn", channels=8), num_classes=3),
    )
    model = build(recipe)
    images = torch.rand(1, 3, 100, 130)
    with pytest.raises(ValueError, match=facts("64×96", "100×130", "--test.mode sliding --test.window 64 96")):
        model.scores(images)
    explicit = recipes.TestRecipe(mode="sliding", window=(64, 96), stride=(42, 64))
    with torch.inference_mode():
        whole = build_predictor(model, recipes.TestRecipe(), data)(images)
        torch.testing.assert_close(whole, build_predictor(model, explicit, data)(images))
        assert build_prior(model, recipes.TestRecipe(), data)(images).shape == (1, 3, 100, 130)
