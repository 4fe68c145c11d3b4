"""The pixel loss against loops and properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from semask.losses.pixel import SegmentationLoss, pixel_cross_entropy
from semask.structures import IGNORE, PixelLogits, Segmentation


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
    assert pixel_cross_entropy(logits, labels, denominator="valid").item() == pytest.approx(total / valid, rel=1e-5)


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
def test_ignored_pixels_never_matter(seed: int, denominator: str, keep: int | None) -> None:
    logits, labels = example(seed, ignored=0.5)
    full = F.interpolate(logits, size=(12, 8), mode="bilinear").requires_grad_()
    pixel_cross_entropy(full, labels, denominator=denominator, keep_hardest=keep).backward()
    ignored = (labels == IGNORE)[:, None].expand_as(full)
    assert full.grad[ignored].abs().max() == 0
    other = torch.where(ignored, torch.randn_like(full), full.detach())
    torch.testing.assert_close(
        pixel_cross_entropy(other, labels, denominator=denominator, keep_hardest=keep),
        pixel_cross_entropy(full.detach(), labels, denominator=denominator, keep_hardest=keep),
    )


@pytest.mark.parametrize("denominator", ["all", "valid"])
@pytest.mark.parametrize("keep", [None, 3])
def test_nothing_labelled(denominator: str, keep: int | None) -> None:
    logits, _ = example(2)
    logits.requires_grad_()
    loss = pixel_cross_entropy(logits, torch.full((2, 12, 8), IGNORE), denominator=denominator, keep_hardest=keep)
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
    assert pixel_cross_entropy(logits, labels, denominator="valid").item() == pytest.approx(2.9479365, abs=1e-6)
    out = Segmentation(PixelLogits(logits, (PixelLogits(logits),)))
    assert SegmentationLoss()(out, labels).auxiliary.item() == pytest.approx(0.7369841, abs=1e-6)
