from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask.geometry import fit_size
from semask.inference import build_predictor, build_prior, multi_scale, rescaled, sliding, whole
from semask.recipes import recipe
from semask.recipes.recipe import DataRecipe


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


class Toy:
    """Scores by a fixed function; remembers the sizes it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def scores(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return gradient(images)

    def prior_scores(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return pointwise(images)


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


def test_overlapping_windows_are_averaged_pixel_by_pixel() -> None:
    """A brute-force sum over window positions, with scores that differ between windows."""
    images = torch.rand(1, 3, 13, 22)

    def centred(window: Tensor) -> Tensor:
        return window - window.mean(dim=(2, 3), keepdim=True)

    total, count = torch.zeros(1, 3, 13, 22), torch.zeros(13, 22)
    for y in (0, 4, 5):  # 13 - 8 = 5: starts 0, 4 and the border's
        for x in (0, 5, 10, 12):  # 22 - 10 = 12
            total[..., y : y + 8, x : x + 10] += centred(images[..., y : y + 8, x : x + 10])
            count[y : y + 8, x : x + 10] += 1
    for batch_size in (1, 5, 64):
        got = sliding(centred, window=(8, 10), stride=(4, 5), batch_size=batch_size)(images)
        torch.testing.assert_close(got, total / count)


def test_an_image_smaller_than_the_window_is_taken_whole() -> None:
    model = Toy()
    images = torch.rand(1, 3, 10, 50)
    sliding(whole(model), window=(32, 32), stride=(16, 16), batch_size=2)(images)
    assert model.seen == [(2, 3, 10, 32), (1, 3, 10, 32)]


def test_rescaled_goes_there_and_back_bilinearly() -> None:
    images = torch.rand(2, 3, 30, 47)
    size = fit_size(30, 47, (64, 40), 1.25)
    expected = bilinear(gradient(bilinear(images, size)), (30, 47))
    assert torch.equal(rescaled(gradient, box=(64, 40), ratio=1.25)(images), expected)


def test_rescaled_by_a_ratio_of_the_own_size() -> None:
    model = Toy()
    scores = rescaled(model.scores, ratio=0.5)(torch.rand(1, 3, 30, 48))
    assert model.seen == [(1, 3, 15, 24)]
    assert scores.shape == (1, 6, 30, 48)
    assert torch.equal(rescaled(gradient)(images := torch.rand(1, 3, 31, 9)), gradient(images))


def test_flip_leaves_a_symmetric_model_as_it_is() -> None:
    images = torch.rand(2, 3, 17, 26)
    once, twice = multi_scale(symmetric, ratios=(1.0,)), multi_scale(symmetric, ratios=(1.0,), flip=True)
    torch.testing.assert_close(twice(images), once(images))
    torch.testing.assert_close(once(images), symmetric(images).softmax(1))


def test_multi_scale_in_the_papers_order() -> None:
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
    got = multi_scale(gradient, box=(40, 30), ratios=(0.5, 1.0, 1.75), flip=True)(images)
    torch.testing.assert_close(got, torch.stack(maps).mean(0))
    torch.testing.assert_close(got.sum(1), torch.ones(1, 24, 36))
    assert not torch.allclose(got, torch.stack(other_order).mean(0), atol=1e-4)


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


@pytest.mark.parametrize(
    ("window", "stride", "batch_size", "message"),
    [
        ((0, 8), (4, 4), 1, "at least 1 pixel"),
        ((8, 8), (0, 4), 1, "at least 1 pixel"),
        ((8, 8), (4, 9), 1, "gaps"),
        ((8, 8), (4, 4), 0, "batch_size"),
    ],
)
def test_impossible_windows_are_refused(
    window: tuple[int, int], stride: tuple[int, int], batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sliding(pointwise, window=window, stride=stride, batch_size=batch_size)


def test_impossible_scales_are_refused() -> None:
    for box, ratio in (((0, 5), 1.0), (None, 0.0), (None, -1.0)):
        with pytest.raises(ValueError, match="must be positive"):
            rescaled(pointwise, box=box, ratio=ratio)
    with pytest.raises(ValueError, match="at least one ratio"):
        multi_scale(pointwise, ratios=())
