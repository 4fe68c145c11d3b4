from __future__ import annotations

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semask.inference import build_predictor
from semask.inference.tta import Mean
from semask.models.model import SegmentationModel
from semask.ops import argmax as label_maps
from semask.ops import lazy_scores
from semask.ops.argmax import label_map
from semask.ops.lazy_scores import UNDECIDED, Crop, HorizontalFlip, InMemory, LazyScores, Resized
from semask.ops.reference import reference_mode
from semask.recipes import DataRecipe, TestRecipe
from semask.structures import Features, MaskLogits, PixelLogits
from tests.facts import facts
from tests.unit.largest import Largest

CLASSES = [1, 2, 19, 150, 171]


def resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores.double(), size, mode="bilinear", align_corners=False)


def check(found: Tensor, scores: Tensor) -> None:
    """Labels are the best classes, or but for rounding as good."""
    assert found.dtype == torch.uint8
    chosen = scores.gather(1, found.long()[:, None])[:, 0]
    torch.testing.assert_close(chosen, scores.amax(1), rtol=1e-6, atol=2e-6 * float(scores.abs().max()))
    assert (found.long() != scores.argmax(1)).float().mean() < 1e-3 or found.numel() < 1000


def patches(classes: int, height: int, width: int, *, batch: int = 1) -> Tensor:
    """Scores of patches of one class, with noise, as trained models give them."""
    coarse = torch.randint(0, classes, (batch, -(-height // 5), -(-width // 5)))
    ids = coarse.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, :height, :width]
    return 6 * F.one_hot(ids, classes).permute(0, 3, 1, 2).float() + torch.randn(batch, classes, height, width)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("noisy", [False, True])
def test_labels_are_those_of_resized_scores(classes: int, noisy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_scores, "NUMBERS", 5000)
    monkeypatch.setattr(label_maps, "NUMBERS", 5000)
    monkeypatch.setattr(label_maps, "PIXELS", 900)
    for h, w, size in ((13, 17, (52, 68)), (12, 9, (47, 31)), (12, 9, (7, 31)), (9, 8, (9, 30)), (1, 6, (1, 11))):
        coarse = torch.randn(2, classes, h, w) if noisy else patches(classes, h, w, batch=2)
        for held in (coarse, coarse.bfloat16(), coarse.to(memory_format=torch.channels_last)):
            check(label_map(Resized(InMemory(held), size)), resized(held.float(), size))


@given(*[st.integers(1, 30)] * 4, st.integers(1, 30), st.integers(1, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_sizes_of_every_kind(h: int, w: int, high: int, wide: int, height: int, width: int, mirror: bool) -> None:
    """Twice resized, cut in between, and mirrored: what a whole image's scores go through."""
    coarse = patches(4, h, w)
    seen = (min(high, 20), min(wide, 20))
    source: LazyScores = Resized(Crop(Resized(InMemory(coarse), (high, wide)), seen), (height, width))
    expected = resized(resized(coarse, (high, wide))[..., : seen[0], : seen[1]], (height, width))
    if mirror:
        source, expected = HorizontalFlip(source), expected.flip(-1)
    check(label_map(source), expected)


def test_what_is_sure_is_right_and_most_of_a_patch_is() -> None:
    coarse = patches(19, 40, 40) + 20 * F.one_hot(torch.zeros(1, 40, 40, dtype=torch.long), 19).permute(0, 3, 1, 2)
    coarse[:, 3, 20:, :25] += 60
    sure = Resized(InMemory(coarse), (160, 160)).certain_argmax(0, 160)
    labels = resized(coarse, (160, 160)).argmax(1)
    known = sure != UNDECIDED
    assert 0.9 < known.float().mean() < 1
    assert torch.equal(sure[known].long(), labels[known])


def test_labels_of_sure_pixels_need_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one class everywhere nothing is resized at all; with a border between two, few pixels are read."""
    read: list[int] = []
    mix = lazy_scores.mix
    monkeypatch.setattr(
        lazy_scores, "mix", lambda table, index, weights: read.append(len(index)) or mix(table, index, weights)
    )
    coarse = torch.zeros(1, 3, 32, 32)
    coarse[:, 1] = 1
    assert label_map(Resized(InMemory(coarse), (128, 128))).unique().tolist() == [1]
    assert read == []
    coarse[:, 2, :, 16:] = 2
    assert label_map(Resized(InMemory(coarse), (128, 128))).unique().tolist() == [1, 2]
    assert 0 < sum(read) == 128 * 4


def test_of_equal_scores_the_first_class_is_taken() -> None:
    coarse = torch.zeros(1, 5, 6, 6)
    coarse[:, 2:4] = 1
    assert label_map(Resized(InMemory(coarse), (24, 23))).unique().tolist() == [2]
    coarse[:, 4, 3:] = 1  # in a second place too, it is not the first
    assert label_map(Resized(InMemory(coarse), (24, 23))).unique().tolist() == [2]


def test_scores_without_end_are_the_best_or_the_worst() -> None:
    coarse = patches(3, 10, 10)
    coarse[0, 1, 4, 5], coarse[0, 2, 8, 5] = float("inf"), -float("inf")
    assert torch.equal(label_map(Resized(InMemory(coarse), (40, 40))).long(), resized(coarse, (40, 40)).argmax(1))


def test_scores_that_are_no_numbers_are_counted() -> None:
    coarse = patches(3, 10, 10)
    coarse[0, 1, 4, 5] = float("nan")
    scores = Resized(InMemory(coarse), (40, 40)).rows(0, 40)
    wrong = int(scores.isnan().any(1).sum())
    assert wrong == 64
    with reference_mode(), pytest.raises(FloatingPointError, match=facts(wrong, 1600)):
        label_map(Resized(InMemory(coarse), (40, 40)))
    with pytest.raises(FloatingPointError, match=facts(wrong, 1600)):
        label_map(Resized(InMemory(coarse), (40, 40)))
    noise = torch.randn(1, 150, 10, 10)  # of which so little is sure that all of it is resized
    noise[0, 1, 4, 5] = float("nan")
    with pytest.raises(FloatingPointError, match=facts(wrong, 1600)):
        label_map(Resized(InMemory(noise), (40, 40)))


@pytest.mark.parametrize("classes", [1, 2, 150])
def test_masks_are_combined_pixel_by_pixel_too(classes: int) -> None:
    prediction = MaskLogits(torch.randn(2, 7, classes + 1), torch.randn(2, 7, 9, 8))
    expected = prediction.scores((36, 31))
    check(label_map(prediction.lazy_scores((36, 31))), expected)
    smaller = Resized(Crop(prediction.lazy_scores((36, 31)), (33, 30)), (20, 41))
    check(label_map(smaller), resized(expected[..., :33, :30], (20, 41)))
    read = smaller.reader(3, 15)
    image, row, column = (torch.randint(low, high, (50,)) for low, high in ((0, 2), (3, 15), (0, 41)))
    one = torch.ones(50, 1)
    places = lazy_scores.SamplePoints(image, row[:, None], column[:, None], one, one)
    expected = smaller.rows(0, 20)[image, :, row, column]
    torch.testing.assert_close(read(places), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(read(places), expected, rtol=1e-5, atol=1e-5)


def test_no_image_has_no_labels() -> None:
    assert label_map(Resized(InMemory(torch.zeros(0, 3, 4, 5)), (16, 20))).shape == (0, 16, 20)


class Pool(nn.Module):
    """An encoder of one map at stride 4."""

    size_multiple, strides, channels_last = 8, (4.0,), False

    def forward(self, images: Tensor) -> Features:
        return Features((F.avg_pool2d(images, 4),))


class Linear(nn.Module):
    def __init__(self, classes: int, *, masks: bool) -> None:
        super().__init__()
        self.weight, self.classes = nn.Parameter(torch.randn(classes, 3, 3, 3)), classes
        self.masks = masks

    def forward(self, features: Features) -> PixelLogits | MaskLogits:
        logits = F.conv2d(features.maps[0], self.weight, padding=1)
        return (
            MaskLogits(logits.mean((2, 3))[:, :, None].repeat(1, 1, 4), logits) if self.masks else PixelLogits(logits)
        )


def model(classes: int, *, masks: bool = False) -> SegmentationModel:
    return SegmentationModel(
        Pool(), Linear(classes, masks=masks), num_classes=classes, mean=(0.5,) * 3, std=(0.2,) * 3
    ).eval()


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
def test_a_models_labels_are_those_of_its_scores(classes: int, masks: bool) -> None:
    segmenter = model(classes, masks=masks)
    with torch.inference_mode():
        for size in ((33, 45), (1, 1), (8, 1), (40, 64)):
            images = torch.rand(2, 3, *size)
            found = segmenter.labels(images)
            check(found, segmenter.scores(images))
            with reference_mode():
                torch.testing.assert_close(segmenter.labels(images), segmenter.scores(images).argmax(1).byte())


def test_compiled_and_exported_labels_are_one_plain_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # dynamo cannot trace its checks
    segmenter, images = model(5), torch.rand(1, 3, 32, 40)

    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = segmenter

        def forward(self, seen: Tensor) -> Tensor:
            return self.model.labels(seen)

    with torch.no_grad():
        expected = segmenter.labels(images)
        exported = torch.export.export(Labels().eval(), (images,))
        compiled = torch.compile(Labels().eval(), backend="eager", fullgraph=True)
        assert torch.equal(exported.module()(images), expected)
        assert torch.equal(compiled(images), expected)


def test_more_classes_than_a_byte_holds() -> None:
    segmenter, images = model(300), torch.rand(1, 3, 16, 16)
    assert segmenter.labels(images).dtype == torch.int64
    with pytest.raises(ValueError, match=facts(256, 300)):
        label_map(segmenter.lazy_scores(images))


class Blocks:
    """A model of scores at stride 2 that depend on blocks of colour in an image, and a little on their noise."""

    size_multiple = 1

    def __init__(self, classes: int, *, logits: bool) -> None:
        self.scores_are_logits, self.weight = logits, 9 * torch.randn(classes, 3, 1, 1)

    def lazy_scores(self, images: Tensor) -> LazyScores:
        height, width = images.shape[-2:]
        scores = F.conv2d(F.adaptive_avg_pool2d(images, (-(-height // 2), -(-width // 2))), self.weight)
        return Resized(InMemory(scores if self.scores_are_logits else scores.sigmoid()), (height, width))

    lazy_prior = lazy_scores


WINDOWS = {"mode": "sliding", "window": (40, 32), "stride": (27, 21), "batch_size": 2}
TESTS = [
    TestRecipe(),
    TestRecipe(**WINDOWS),
    TestRecipe(**WINDOWS, blend="hann"),
    TestRecipe(flip=True),
    TestRecipe(scales=(1.5,), flip=True, **WINDOWS),
]


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("test", TESTS)
def test_windows_and_means_are_sure_where_all_are(
    test: TestRecipe, logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_scores, "NUMBERS", 50_000)
    monkeypatch.setattr(label_maps, "NUMBERS", 50_000)
    monkeypatch.setattr(label_maps, "PIXELS", 10_000)
    blocks = torch.rand(1, 3, 3, 3).repeat_interleave(28, 2).repeat_interleave(30, 3)[..., :80, :87]
    images = (blocks + 0.01 * torch.rand_like(blocks)).clamp(0, 1)
    predictor = build_predictor(Blocks(30, logits=logits), test, DataRecipe())
    with torch.inference_mode():
        with Largest() as largest:
            found = predictor.labels(images)
        assert largest.numbers < 30 * 80 * 87 / 2
        check(found, predictor(images))
        sure = predictor.lazy_scores(images).certain_argmax(0, 80)
        known = sure != UNDECIDED
        assert 0.3 < known.float().mean() < 1
        assert torch.equal(sure[known].to(torch.uint8), found[known])


def test_scores_of_windows_are_read_as_their_rows() -> None:
    """Of two images, where windows overlap and where they do not."""
    predictor = build_predictor(Blocks(5, logits=True), TestRecipe(**WINDOWS, blend="hann"), DataRecipe())
    images = torch.rand(2, 3, 61, 70)
    image, row, column = (torch.randint(low, high, (60,)) for low, high in ((0, 2), (10, 50), (0, 70)))
    one = torch.ones(60, 1)
    with torch.inference_mode():
        read = predictor.lazy_scores(images).reader(10, 50)
        found = read(lazy_scores.SamplePoints(image, row[:, None], column[:, None], one, one))
        torch.testing.assert_close(found, predictor(images)[image, :, row, column], rtol=1e-5, atol=1e-5)


def test_a_mean_is_sure_of_no_class_that_one_version_does_not_choose() -> None:
    labels = torch.tensor([[[0, 1, 1]], [[0, 1, 2]]])
    first, second = (F.one_hot(each, 3).permute(2, 0, 1)[None].float() for each in labels)
    assert Mean((InMemory(first), InMemory(second)), softmax=True).certain_argmax(0, 1).tolist() == [
        [[0, 1, UNDECIDED]]
    ]
