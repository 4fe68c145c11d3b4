from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask.inference import Pipeline, build_predictor
from semask.ops import lazy_scores
from semask.ops.lazy_scores import CombineMasks, Crop, InMemory, LazyScores, Resized, iter_row_blocks, materialize
from semask.recipes import DataRecipe, recipe
from semask.structures import MaskLogits, PixelLogits
from tests.facts import facts

SIDES = st.integers(1, 40)


def by_rows(source: LazyScores, cuts: list[int]) -> Tensor:
    """Ask for bands that end at `cuts`, once more and plainly."""
    height = source.shape[2]
    ends = [*sorted({cut % height for cut in cuts} - {0}), height]
    return torch.cat([source.rows(a, b) for a, b in zip([0, *ends], ends, strict=False)], dim=2)


@given(SIDES, SIDES, SIDES, SIDES, st.lists(st.integers(0, 100), max_size=5))
@settings(max_examples=80, deadline=None)
def test_bands_of_a_resized_map_are_torchs_own_rows(h: int, w: int, height: int, width: int, cuts: list[int]) -> None:
    maps = torch.randn(2, 3, h, w)
    # In float64, since torch rounds positions to float32, for columns here too: 1e-6 of 40 px times the slope.
    expected = F.interpolate(maps.double(), (height, width), mode="bilinear", align_corners=False).float()
    source = Resized(InMemory(maps), (height, width))
    assert source.shape == expected.shape
    torch.testing.assert_close(by_rows(source, cuts), expected, rtol=1e-5, atol=3e-5)
    torch.testing.assert_close(materialize(source), expected, rtol=1e-5, atol=3e-5)


def test_bands_of_both_kinds_of_prediction_are_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_scores, "NUMBERS", 300)
    pixels = PixelLogits(torch.randn(2, 5, 7, 9))
    masks = MaskLogits(torch.randn(2, 4, 6), torch.randn(2, 4, 7, 9))
    for prediction in (pixels, masks):
        cut = Crop(prediction.lazy_scores((28, 36)), (26, 33))
        assert len(list(iter_row_blocks(cut))) > 10
        torch.testing.assert_close(materialize(cut), prediction.scores((28, 36))[..., :26, :33], rtol=1e-5, atol=1e-5)


def test_low_precision_is_resized_in_full_precision() -> None:
    maps = torch.randn(1, 3, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = materialize(Resized(InMemory(maps.bfloat16()), (20, 20)))
        combined = materialize(CombineMasks(torch.rand(1, 2, 3), Resized(InMemory(maps[:, :2]), (9, 9))))
    assert found.dtype == combined.dtype == torch.float32
    torch.testing.assert_close(
        found, F.interpolate(maps.bfloat16().float(), (20, 20), mode="bilinear", align_corners=False)
    )


def test_labels_and_confidence_are_those_of_whole_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_scores, "NUMBERS", 4000)
    images = torch.rand(2, 3, 40, 31)
    weight = torch.randn(6, 3, 3, 3) * 4

    def scores(seen: Tensor) -> Tensor:
        return F.conv2d(seen, weight, stride=2, padding=1)

    class Model:
        size_multiple = 1

        def __init__(self, *, logits: bool) -> None:
            self.scores_are_logits = logits

        def lazy_scores(self, seen: Tensor) -> LazyScores:
            found = scores(seen) if self.scores_are_logits else scores(seen).sigmoid()
            return Resized(InMemory(found), (seen.shape[-2], seen.shape[-1]))

        lazy_prior = lazy_scores

    windows = {"mode": "sliding", "window": (16, 12), "stride": (9, 7), "batch_size": 3}
    for test in (
        recipe.TestRecipe(),
        recipe.TestRecipe(**windows),
        recipe.TestRecipe(scales=(0.5, 1.0), flip=True, **windows),
    ):
        for logits in (True, False):
            predictor = build_predictor(Model(logits=logits), test, DataRecipe(base_ratio=1.5))
            whole = predictor(images)
            share = whole.softmax(1) if predictor.scores_are_logits else whole / whole.sum(1, keepdim=True)
            found = predictor.labelled(images)
            assert found.labels.dtype == torch.uint8
            assert torch.equal(found.labels.long(), whole.argmax(1))
            assert torch.equal(predictor.labels(images), found.labels)
            torch.testing.assert_close(found.confidence, share.amax(1), rtol=1e-4, atol=1e-5)


def test_no_mask_anywhere_leaves_every_class_as_likely() -> None:
    scores = torch.zeros(1, 4, 2, 2)
    scores[0, 2, 0, 0] = 1e-30
    found = Pipeline(lambda images: InMemory(scores), scores_are_logits=False).labelled(torch.rand(1, 3, 2, 2))
    assert found.labels.tolist() == [[[2, 0], [0, 0]]]
    assert found.confidence.tolist() == [[[1.0, 0.25], [0.25, 0.25]]]


def test_scores_that_are_no_numbers_have_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_scores, "NUMBERS", 20)
    scores = torch.rand(1, 4, 6, 5)
    scores[0, 2, 1:3, 4] = float("nan")
    scores[0, 1, 5, 0] = float("inf")
    predictor = Pipeline(lambda images: InMemory(scores))
    with pytest.raises(FloatingPointError, match=facts(2, 30)):
        predictor.labels(torch.rand(1, 3, 6, 5))
    assert predictor.labelled(torch.rand(1, 3, 6, 5)).confidence.isnan().nonzero().tolist() == [
        [0, 1, 4],
        [0, 2, 4],
        [0, 5, 0],
    ]


def test_labels_of_low_precision() -> None:
    maps = torch.randn(1, 5, 6, 7).bfloat16()
    for source in (InMemory(maps), Resized(InMemory(maps), (6, 7))):
        found = Pipeline(lambda images, source=source: source).labels(torch.rand(1, 3, 6, 7))
        assert torch.equal(found.long(), maps.argmax(1))
    assert Resized(InMemory(maps), (6, 7)).rows(0, 6).dtype == torch.float32


def test_bytes_hold_256_classes() -> None:
    for count in (1, 256):
        predictor = Pipeline(lambda images, count=count: InMemory(images[:, :1].repeat(1, count, 1, 1)))
        found = predictor.labelled(torch.rand(1, 3, 4, 5))
        torch.testing.assert_close(found.confidence, torch.full((1, 4, 5), 1 / count))
        assert int(found.labels.max()) == 0
    for decide in (Pipeline.labels, Pipeline.labelled):
        with pytest.raises(ValueError, match=facts(256, 257)):
            decide(Pipeline(lambda images: InMemory(images[:, :1].repeat(1, 257, 1, 1))), torch.rand(1, 3, 4, 5))
