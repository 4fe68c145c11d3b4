"""The pixel loss against loops and properties."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from semask.losses.build import build_loss
from semask.losses.pixel import SegmentationLoss, pixel_cross_entropy
from semask.recipes import get_recipe
from semask.structures import IGNORE, PixelLogits, Segmentation
from tests.facts import facts


def example(seed: int, *, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, 12, 8), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE
    return torch.randn(2, 4, 3, 2, generator=generator), labels.to(torch.uint8)


def test_denominators_against_a_loop() -> None:
    logits, labels = example(0)
    full = F.interpolate(logits, size=(12, 8), mode="bilinear", align_corners=False)
    total, valid = 0.0, 0
    for b in range(2):
        for y in range(12):
            for x in range(8):
                label = int(labels[b, y, x])
                if label != IGNORE:
                    total -= float(torch.log_softmax(full[b, :, y, x], 0)[label])
                    valid += 1
    assert valid < labels.numel()
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(total / labels.numel(), rel=1e-5)
    assert pixel_cross_entropy(logits, labels, normalize_by="valid").item() == pytest.approx(total / valid, rel=1e-5)


def test_hardest_pixels_against_sorting() -> None:
    logits, labels = example(1)
    losses = F.cross_entropy(
        F.interpolate(logits, size=(12, 8), mode="bilinear"), labels.long(), ignore_index=IGNORE, reduction="none"
    )
    expected = losses[labels != IGNORE].sort(descending=True).values[: 2 * 7].sum() / labels.numel()
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, keep_hardest=7), expected)
    every = pixel_cross_entropy(logits, labels, keep_hardest=10_000)
    torch.testing.assert_close(every, pixel_cross_entropy(logits, labels))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(["all", "valid"]), st.sampled_from([None, 5]))
def test_ignored_pixels_never_matter(seed: int, normalize_by: str, keep: int | None) -> None:
    logits, labels = example(seed, ignored=0.5)
    full = F.interpolate(logits, size=(12, 8), mode="bilinear").requires_grad_()
    pixel_cross_entropy(full, labels, normalize_by=normalize_by, keep_hardest=keep).backward()
    ignored = (labels == IGNORE)[:, None].expand_as(full)
    assert full.grad[ignored].abs().max() == 0
    other = torch.where(ignored, torch.randn_like(full), full.detach())
    torch.testing.assert_close(
        pixel_cross_entropy(other, labels, normalize_by=normalize_by, keep_hardest=keep),
        pixel_cross_entropy(full.detach(), labels, normalize_by=normalize_by, keep_hardest=keep),
    )


@pytest.mark.parametrize("normalize_by", ["all", "valid"])
@pytest.mark.parametrize("keep", [None, 3])
def test_nothing_labelled(normalize_by: str, keep: int | None) -> None:
    logits, _ = example(2)
    logits.requires_grad_()
    loss = pixel_cross_entropy(logits, torch.full((2, 12, 8), IGNORE), normalize_by=normalize_by, keep_hardest=keep)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_the_prior_carries_its_weight_and_escapes_ohem() -> None:
    (logits, labels), (other, _) = example(3), example(4)
    out = Segmentation(PixelLogits(logits), PixelLogits(other))
    terms = SegmentationLoss(prior_weight=0.4, ohem_pixels=5)(out, labels)
    torch.testing.assert_close(terms.prior, 0.4 * pixel_cross_entropy(other, labels))
    torch.testing.assert_close(terms.main, pixel_cross_entropy(logits, labels, keep_hardest=5))
    torch.testing.assert_close(terms.total, terms.main + terms.prior)
    assert SegmentationLoss()(Segmentation(PixelLogits(logits)), labels).prior == 0


def test_earlier_predictions_carry_their_weight_and_escape_ohem() -> None:
    (logits, labels), *others = (example(seed) for seed in (5, 6, 7))
    earlier = tuple(PixelLogits(other) for other, _ in others)
    out = Segmentation(PixelLogits(logits, earlier))
    terms = SegmentationLoss(ohem_pixels=5, auxiliary_weight=0.3)(out, labels)
    expected = sum(0.3 * pixel_cross_entropy(head.logits, labels) for head in earlier)
    torch.testing.assert_close(terms.auxiliary, expected)
    torch.testing.assert_close(terms.total, pixel_cross_entropy(logits, labels, keep_hardest=5) + expected)


def test_values_of_mmsegmentation() -> None:
    """Computed by mmsegmentation 1.2.2, in both ways to average; 0.4 is the weight of an auxiliary head."""
    logits = 2 * torch.arange(24.0).sin().reshape(2, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [IGNORE, 2]], [[IGNORE, IGNORE], [1, 1]]])
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(1.8424603, abs=1e-6)
    assert pixel_cross_entropy(logits, labels, normalize_by="valid").item() == pytest.approx(2.9479365, abs=1e-6)
    out = Segmentation(PixelLogits(logits, (PixelLogits(logits),)))
    assert SegmentationLoss()(out, labels).auxiliary.item() == pytest.approx(0.7369841, abs=1e-6)


# --- class weights -----------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_weights_among_labelled_pixels_are_those_of_torch(dtype: torch.dtype) -> None:
    logits, labels = example(8)
    full = F.interpolate(logits, size=(12, 8), mode="bilinear").requires_grad_()
    ours = pixel_cross_entropy(full, labels.to(dtype), normalize_by="valid", class_weights=WEIGHTS)
    theirs = F.cross_entropy(full, labels.long(), weight=WEIGHTS, ignore_index=IGNORE)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, full), torch.autograd.grad(theirs, full))


def test_weights_over_all_pixels_shrink_by_the_labelled_share() -> None:
    logits, labels = example(9)
    full = F.interpolate(logits, size=(12, 8), mode="bilinear")
    theirs = F.cross_entropy(full, labels.long(), weight=WEIGHTS, ignore_index=IGNORE)
    share = (labels != IGNORE).float().mean()
    torch.testing.assert_close(pixel_cross_entropy(full, labels, class_weights=WEIGHTS), theirs * share)


@pytest.mark.parametrize("normalize_by", ["all", "valid"])
@pytest.mark.parametrize("keep", [None, 9])
def test_equal_weights_and_their_scale_change_nothing(normalize_by: str, keep: int | None) -> None:
    logits, labels = example(10)
    plain = pixel_cross_entropy(logits, labels, normalize_by=normalize_by, keep_hardest=keep)
    alike = [
        pixel_cross_entropy(logits, labels, normalize_by=normalize_by, keep_hardest=keep, class_weights=weights)
        for weights in (torch.ones(4), torch.full((4,), 7.0))
    ]
    torch.testing.assert_close(alike, [plain, plain])


@pytest.mark.parametrize("labels", [torch.full((2, 12, 8), IGNORE), torch.full((2, 12, 8), 3)])
def test_pixels_without_weight_add_nothing(labels: torch.Tensor) -> None:
    logits = example(11)[0].requires_grad_()
    loss = pixel_cross_entropy(logits, labels, normalize_by="valid", class_weights=WEIGHTS)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_weights_act_on_the_main_loss_alone() -> None:
    (logits, labels), (other, _), (early, _) = example(12), example(13), example(14)
    out = Segmentation(PixelLogits(logits, (PixelLogits(early),)), PixelLogits(other))
    plain = SegmentationLoss()(out, labels)
    terms = SegmentationLoss(class_weights=tuple(WEIGHTS.tolist()))(out, labels)
    torch.testing.assert_close(terms.main, pixel_cross_entropy(logits, labels, class_weights=WEIGHTS))
    assert abs(terms.main - plain.main) > 0.01
    torch.testing.assert_close((terms.prior, terms.auxiliary), (plain.prior, plain.auxiliary))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ((1.0, 2.0), (2, 11)),
        ((-1.0,) + (1.0,) * 10, (-1, "--loss.class-weights")),
        ((float("nan"),) + (1.0,) * 10, ("nan", "--loss.class-weights")),
        ((0.0,) * 11, (0, "(0.0, 0.0,")),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: tuple[float, ...], told: tuple[object, ...]) -> None:
    recipe = get_recipe("scenes/micro-fpn")
    recipe = replace(recipe, model=replace(recipe.model, num_classes=11))
    with pytest.raises(ValueError, match=facts("loss.class_weights", *told)):
        build_loss(replace(recipe, loss=replace(recipe.loss, class_weights=weights)))


def test_mask_classifiers_refuse_weights_of_pixels() -> None:
    recipe = get_recipe("folder/semask-lite0-mask2former")
    with pytest.raises(ValueError, match=facts("mask2former", "class_weights", "--loss.class-weights None")):
        build_loss(replace(recipe, loss=replace(recipe.loss, class_weights=(1.0, 2.0))))
