"""Region losses beside segmentation_models_pytorch's and torchvision's, and by what they must do."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch import losses as smp
from torchvision.ops import sigmoid_focal_loss

from semask.losses.build import build_loss
from semask.losses.pixel import SegmentationLoss
from semask.losses.regions import focal, lovasz_softmax, region_loss, tversky
from semask.recipes import LossRecipe, get_recipe
from semask.structures import IGNORE, PixelLogits, Segmentation
from tests.facts import facts

K = 5


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(2, K, 24, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, K - 1, (2, 24, 20), generator=torch.Generator().manual_seed(1))  # the last is absent


def flat(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return logits.softmax(1).movedim(1, -1).reshape(-1, K), labels.flatten()


def test_dice_and_tversky_are_those_of_smp(logits: torch.Tensor, labels: torch.Tensor) -> None:
    # smp averages over all classes, with 0 for absent ones
    present = K / (K - 1)
    dice = smp.DiceLoss("multiclass", smooth=0.0)(logits, labels) * present
    assert tversky(*flat(logits, labels), alpha=0.5, beta=0.5).item() == pytest.approx(dice.item(), rel=1e-5)
    other = smp.TverskyLoss("multiclass", smooth=0.0, alpha=0.2, beta=0.8)(logits, labels) * present
    assert tversky(*flat(logits, labels), alpha=0.2, beta=0.8).item() == pytest.approx(other.item(), rel=1e-5)


def test_lovasz_is_that_of_smp(logits: torch.Tensor, labels: torch.Tensor) -> None:
    wanted = smp.LovaszLoss("multiclass", from_logits=True)(logits, labels)
    assert lovasz_softmax(*flat(logits, labels)).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_lovasz_of_certain_predictions_is_the_jaccard_loss(labels: torch.Tensor) -> None:
    truth = labels.flatten()
    guess = torch.where(torch.arange(len(truth)) % 3 == 0, (truth + 1) % (K - 1), truth)
    certain = torch.nn.functional.one_hot(guess, K).float()
    iou = [((guess == k) & (truth == k)).sum() / ((guess == k) | (truth == k)).sum() for k in range(K - 1)]
    assert lovasz_softmax(certain, truth).item() == pytest.approx(1 - sum(iou).item() / (K - 1), rel=1e-5)


def test_focal_is_torchvision_s_for_two_classes(labels: torch.Tensor) -> None:
    two = torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    truth = labels.flatten()[:50] % 2
    wanted = sigmoid_focal_loss(two[:, 1] - two[:, 0], truth.float(), alpha=-1, gamma=2.0, reduction="mean")
    assert focal(two.softmax(1), truth, gamma=2.0).item() == pytest.approx(wanted.item(), rel=1e-5)
    entropy = torch.nn.functional.cross_entropy(two, truth)
    assert focal(two.softmax(1), truth, gamma=0.0).item() == pytest.approx(entropy.item(), rel=1e-5)


def test_ignored_pixels_take_no_part_and_nothing_labelled_is_zero(logits: torch.Tensor, labels: torch.Tensor) -> None:
    terms = {"dice": (1.0, lambda p, t: tversky(p, t, alpha=0.5, beta=0.5)), "lovasz": (0.5, lovasz_softmax)}
    labels[:, :, 10:] = IGNORE
    changed = logits.clone()
    changed[..., 10:] = 100
    before, after = (region_loss(PixelLogits(each), labels, terms) for each in (logits, changed))
    assert torch.equal(before, after)
    logits.requires_grad_()
    nothing = region_loss(PixelLogits(logits), torch.full_like(labels, IGNORE), terms)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_recipe_adds_weighted_terms_to_the_main_loss(logits: torch.Tensor, labels: torch.Tensor) -> None:
    out = Segmentation(PixelLogits(logits))
    recipe = get_recipe("folder/semask-lite0-fpn")

    def main(**changes: float) -> float:
        loss = build_loss(recipe.override({f"loss.{name}": value for name, value in changes.items()}))
        assert isinstance(loss, SegmentationLoss)
        return loss(out, labels).main.item()

    plain, dice = main(), main(cross_entropy=0.0, dice=1.0)
    assert main(dice=2.0, cross_entropy=0.5) == pytest.approx(0.5 * plain + 2 * dice, rel=1e-5)
    assert main(cross_entropy=0.0, tversky=1.0, tversky_alpha=0.5) == pytest.approx(dice, rel=1e-5)
    assert main(lovasz=1.0, focal=1.0) > plain
    with pytest.raises(ValueError, match=facts("--loss.cross-entropy")):
        main(cross_entropy=0.0)
    masks = get_recipe("folder/semask-lite0-mask2former")
    with pytest.raises(ValueError, match=facts("--loss.dice 0.0", "mask2former")):
        build_loss(masks.override({"loss": LossRecipe(normalize_by="valid", dice=1.0)}))


def test_gradients_lead_to_the_truth(labels: torch.Tensor) -> None:
    for term in (lovasz_softmax, lambda p, t: tversky(p, t, alpha=0.3, beta=0.7)):
        scores = torch.zeros(2, K, 24, 20, requires_grad=True)
        for _ in range(30):
            loss = region_loss(PixelLogits(scores), labels, {"": (1.0, term)})
            (gradient,) = torch.autograd.grad(loss, scores)
            scores = (scores - 300 * gradient).detach().requires_grad_()
        assert (scores.argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_has_finite_gradients_that_pull_the_worst_pixels(gamma: float) -> None:
    scores = torch.tensor([[60.0, -60.0], [0.0, 0.0], [3.0, -3.0]], requires_grad=True)
    focal(scores.softmax(1), torch.tensor([0, 0, 1]), gamma=gamma).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[2, 1] < 0
