"""The loss of mask classification: loops, what must not matter, and what must not break it."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.losses import masks
from semask.losses.masks import MaskClassificationLoss, MaskTerms
from semask.losses.matching import dice_loss, mean_pixel_loss
from semask.losses.pixel import pixel_cross_entropy
from semask.losses.points import Draws
from semask.ops.resize import resize
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE, MaskLogits, PixelLogits, Segmentation
from tests.facts import facts

NUM_CLASSES = 6
WHOLE = MaskLossRecipe(class_weight=1, mask_weight=20, dice_weight=1, mask_loss="focal", points=None)
POINTS = MaskLossRecipe(points=60)
BACKGROUND = [
    MaskLossRecipe(points=60, ignored="background"),
    MaskLossRecipe(mask_loss="focal", points=None, ignored="background"),
]


def prediction(seed: int, *, size: tuple[int, int] = (4, 5), queries: int = 7, images: int = 2) -> MaskLogits:
    """Three random predictions whose parts are leaves."""
    generator = torch.Generator().manual_seed(seed)

    def one() -> MaskLogits:
        shapes = (images, queries, NUM_CLASSES + 1), (images, queries, *size)
        return MaskLogits(*(2 * torch.randn(shape, generator=generator) for shape in shapes))

    return one()._replace(auxiliary=(one(), one()))


def block_labels(seed: int, *, stride: int = 4, size: tuple[int, int] = (4, 5), images: int = 2) -> torch.Tensor:
    """Blocks of labels with a rectangle of 3×3 blocks or more that is ignored, and some single ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES - 1, (images, *size), generator=generator)
    top, left = (int(torch.randint(0, 2, (), generator=generator)) for _ in range(2))
    labels[:, top : top + 3, left:] = IGNORE
    labels = labels.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    return labels.to(torch.uint8)


def leaves(out: MaskLogits) -> list[torch.Tensor]:
    return [part for one in (out, *out.auxiliary) for part in (one.class_logits, one.mask_logits)]


def change(out: MaskLogits, act: Callable[[torch.Tensor], torch.Tensor], *, classes: bool = False) -> MaskLogits:
    """Act on all mask logits, and on class logits if asked to."""
    return MaskLogits(
        act(out.class_logits) if classes else out.class_logits,
        act(out.mask_logits),
        tuple(change(one, act, classes=classes) for one in out.auxiliary),
    )


def terms_of(recipe: MaskLossRecipe, out: MaskLogits, labels: torch.Tensor) -> MaskTerms:
    torch.manual_seed(0)
    return MaskClassificationLoss(recipe).terms(out, labels)


def total(terms: MaskTerms) -> torch.Tensor:
    return sum((term.sum() for term in terms), torch.zeros(()))


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_binary_losses_against_loops(kind: str) -> None:
    logits, targets, weights = 3 * torch.randn(3, 9), torch.rand(3, 9), (torch.rand(3, 9) < 0.6).float()
    weights[2] = 0
    pixel, dice = mean_pixel_loss(logits, targets, weights, kind), dice_loss(logits, targets, weights)
    for m in range(3):
        loss = overlap = area = 0.0
        for x, t, w in zip(logits[m].tolist(), targets[m].tolist(), weights[m].tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            inside, outside = -math.log(p), -math.log(1 - p)
            if kind == "focal":
                inside, outside = 0.25 * (1 - p) ** 2 * inside, 0.75 * p**2 * outside
            loss += w * (t * inside + (1 - t) * outside)
            overlap += w * p * t
            area += w * (p + t)
        assert float(pixel[m]) == pytest.approx(loss / max(1.0, float(weights[m].sum())), abs=1e-5)
        assert float(dice[m]) == pytest.approx(1 - (2 * overlap + 1) / (area + 1), abs=1e-5)


def test_whole_masks_of_labelled_pixels_against_loops() -> None:
    """Matching by trying all assignments, losses on the labelled pixels alone, the class loss query by query."""
    out, labels = prediction(1, queries=5)._replace(auxiliary=()), block_labels(1)
    labels[1] = torch.where(labels[1] == 0, IGNORE, labels[1])
    found = terms_of(WHOLE, out, labels)
    near = labels[:, ::4, ::4]  # the nearest pixel of a cell, as interpolate takes it
    pixel = dice = masks_seen = weight = cross = 0.0
    for image in range(2):
        ids = sorted(set(labels[image].flatten().tolist()) - {IGNORE})
        seen = near[image] != IGNORE
        cost = {}
        for q, c in itertools.product(range(5), ids):
            logit, target = out.mask_logits[image, q][seen][None], (near[image] == c)[seen].float()[None]
            one = torch.ones_like(logit)
            probability = out.class_logits[image, q].softmax(-1)[c]
            cost[q, c] = float(
                -probability + 20 * mean_pixel_loss(logit, target, one, "focal") + dice_loss(logit, target, one)
            )
        orders = itertools.permutations(range(5), len(ids))
        best = min(orders, key=lambda order: sum(cost[q, c] for q, c in zip(order, ids, strict=True)))
        answer = dict(zip(best, ids, strict=True))
        full = resize(out.mask_logits[image : image + 1], (16, 20))[0]
        seen = labels[image] != IGNORE
        for q in range(5):
            wanted = answer.get(q, NUM_CLASSES)
            share = 0.1 if q not in answer else 1.0
            cross -= share * float(out.class_logits[image, q].log_softmax(-1)[wanted])
            weight += share
            if q in answer:
                logit, target = full[q][seen][None], (labels[image] == wanted)[seen].float()[None]
                one = torch.ones_like(logit)
                pixel += float(mean_pixel_loss(logit, target, one, "focal"))
                dice += float(dice_loss(logit, target, one))
        masks_seen += len(ids)
    assert found.classes.item() == pytest.approx(cross / weight, rel=1e-5)
    assert found.masks.item() == pytest.approx(pixel / masks_seen, rel=1e-5)
    assert found.dice.item() == pytest.approx(dice / masks_seen, rel=1e-5)


def test_points_on_every_labelled_pixel_are_whole_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways agree where they compare the same: all labelled pixels, once each, on a grid as fine as the labels."""
    out, labels = prediction(2, size=(8, 16), images=1), block_labels(2, stride=4, size=(2, 4), images=1)
    labels[0, :4, :6] = 1
    count = int((labels != IGNORE).sum())
    assert 0 < count < labels.numel()
    numbers = ((torch.arange(count) + 0.5) / count)[:, None]

    def every_pixel(recipe: MaskLossRecipe, points: int, *, predictions: int, pairs: int, **_: object) -> Draws:
        part = numbers.expand(predictions, pairs, count, 1)
        return Draws(part[:, :1], part[:, :, :0], part)

    expected = terms_of(MaskLossRecipe(points=None), out, labels)
    monkeypatch.setattr(masks, "draw", every_pixel)
    found = terms_of(MaskLossRecipe(points=count, importance_sample_ratio=0), out, labels)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([WHOLE, POINTS]), st.sampled_from([2, 4, 8]))
def test_ignored_pixels_never_matter(seed: int, recipe: MaskLossRecipe, stride: int) -> None:
    """Nothing depends on cells that no labelled pixel is interpolated from: no cost, no choice of points, no loss."""
    out, labels = prediction(seed), block_labels(seed, stride=stride)
    probe = torch.zeros_like(out.mask_logits[:, :1]).requires_grad_()
    resized = resize(probe, (labels.shape[-2], labels.shape[-1]))[:, 0]
    (reach,) = torch.autograd.grad(resized[labels != IGNORE].sum(), probe)
    untouched = (reach == 0).expand_as(out.mask_logits)
    assert untouched.any()
    for part in leaves(out):
        part.requires_grad_()
    terms = terms_of(recipe, out, labels)
    total(terms).backward()
    for one in (out, *out.auxiliary):
        assert one.mask_logits.grad[untouched].abs().max() == 0
        assert one.mask_logits.grad[~untouched].abs().max() > 0
    other = change(out, lambda x: torch.where(untouched, 50 * torch.randn_like(x), x).detach())
    for mine, before in zip(terms_of(recipe, other, labels), terms, strict=True):
        torch.testing.assert_close(mine, before.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", BACKGROUND, ids=["points", "whole"])
def test_ignored_pixels_matter_in_the_authors_way(recipe: MaskLossRecipe) -> None:
    out, labels = prediction(0), block_labels(0)
    labels[:, :, 10:] = IGNORE
    for part in leaves(out):
        part.requires_grad_()
    total(terms_of(recipe, out, labels)).backward()
    assert out.mask_logits.grad[..., 3:].abs().max() > 0


def test_ignored_pixels_leave_the_prior_alone() -> None:
    out, labels = prediction(0), block_labels(0)
    prior = torch.randn(2, NUM_CLASSES, *labels.shape[1:], requires_grad=True)
    MaskClassificationLoss(POINTS)(Segmentation(out, PixelLogits(prior)), labels).total.backward()
    ignored = (labels == IGNORE)[:, None].expand_as(prior)
    assert prior.grad[ignored].abs().max() == 0
    assert prior.grad[~ignored].abs().max() > 0


def test_a_picture_without_labels_changes_nothing() -> None:
    out, labels = prediction(3, images=3), block_labels(3, images=3)
    labels[1] = IGNORE
    without = change(out, lambda x: x[::2], classes=True)
    for mine, other in zip(terms_of(WHOLE, out, labels), terms_of(WHOLE, without, labels[::2]), strict=True):
        torch.testing.assert_close(mine, other)
    out.class_logits.requires_grad_()
    terms_of(WHOLE, out, labels).classes.sum().backward()
    assert out.class_logits.grad[1].abs().max() == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.permutations(range(7)), st.sampled_from([WHOLE, POINTS, *BACKGROUND]))
def test_the_order_of_queries_does_not_matter(seed: int, order: list[int], recipe: MaskLossRecipe) -> None:
    """Pairs come in the order of queries, so here every pair is given the same random points."""
    out, labels = prediction(seed), block_labels(seed)

    def alike(*arguments: object, **names: object) -> Draws:
        draws = original(*arguments, **names)
        return draws._replace(
            candidates=draws.candidates[:, :1].expand_as(draws.candidates),
            others=draws.others[:, :1].expand_as(draws.others),
        )

    original = masks.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "draw", alike)
        expected = terms_of(recipe, out, labels)
        found = terms_of(recipe, change(out, lambda x: x[:, order], classes=True), labels)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


EDGES = {
    "nothing labelled": torch.full((2, 16, 20), IGNORE),
    "one picture without labels": torch.stack((torch.full((16, 20), IGNORE), torch.ones(16, 20, dtype=torch.int64))),
    "one class": torch.full((2, 16, 20), 3),
    "one labelled pixel": torch.full((2, 16, 20), IGNORE),
    "more classes than queries": torch.arange(640).reshape(2, 16, 20) % NUM_CLASSES,
}
EDGES["one labelled pixel"][0, 5, 6] = 2


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("recipe", [WHOLE, POINTS, *BACKGROUND], ids=["whole", "points", "their points", "their whole"])
def test_edges_train(recipe: MaskLossRecipe, edge: str, autocast: bool) -> None:
    """Losses and gradients are finite, and every part gets a gradient, as DDP wants it."""
    kind = torch.bfloat16 if autocast else torch.float32
    out = change(prediction(4, queries=3), lambda x: x.to(kind).requires_grad_(), classes=True)
    prior = torch.randn(2, NUM_CLASSES, 16, 20).to(kind).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        terms = MaskClassificationLoss(recipe)(Segmentation(out, PixelLogits(prior)), EDGES[edge])
    assert all(torch.isfinite(term) and term.dtype == torch.float32 for term in terms)
    terms.total.backward()
    assert all(part.grad is not None and torch.isfinite(part.grad).all() for part in (*leaves(out), prior))
    if edge == "nothing labelled":
        assert all(one.mask_logits.grad.abs().max() == 0 for one in (out, *out.auxiliary))
        assert (terms.total == 0) == (recipe.ignored == "excluded")
    else:
        assert terms.main > 0


@pytest.mark.parametrize("recipe", [WHOLE, POINTS], ids=["whole", "points"])
@pytest.mark.parametrize("part", [0, 1], ids=["classes", "masks"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_diverged_gives_a_loss_that_is_not_finite(recipe: MaskLossRecipe, part: int, bad: float) -> None:
    out = prediction(5)
    leaves(out)[part].fill_(bad)
    assert not torch.isfinite(total(terms_of(recipe, out, block_labels(5))))


def test_the_terms_are_weighted_and_the_prior_is_added_once() -> None:
    out, labels = prediction(6), block_labels(6)
    prior = torch.randn(2, NUM_CLASSES, *labels.shape[1:])
    terms = terms_of(WHOLE, out, labels)
    assert [len(term) for term in terms] == [3, 3, 3]
    single = [terms_of(WHOLE, one._replace(auxiliary=()), labels) for one in (out, *out.auxiliary)]
    for joint, alone in zip(terms, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(joint, torch.cat(alone))
    found = MaskClassificationLoss(WHOLE, 0.3)(Segmentation(out, PixelLogits(prior)), labels)
    torch.testing.assert_close(found.main, terms.classes.sum() + 20 * terms.masks.sum() + terms.dice.sum())
    torch.testing.assert_close(found.prior, 0.3 * pixel_cross_entropy(prior, labels, normalize_by="valid"))
    torch.testing.assert_close(found.total, found.main + found.prior)
    assert MaskClassificationLoss(WHOLE)(Segmentation(out), labels).prior == 0


def test_masks_are_counted_over_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second worker had 11 masks more than this one."""
    out, labels = prediction(7), block_labels(7)
    count = sum(len(set(image.flatten().tolist()) - {IGNORE}) for image in labels)
    alone = terms_of(WHOLE, out, labels)
    monkeypatch.setattr(masks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(masks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(masks.dist, "all_reduce", lambda value: value.add_(count + 11))
    shared = terms_of(WHOLE, out, labels)
    torch.testing.assert_close(shared.masks * (count + 5.5), alone.masks * count)
    torch.testing.assert_close(shared.dice * (count + 5.5), alone.dice * count)
    torch.testing.assert_close(shared.classes, alone.classes)


@pytest.mark.parametrize(
    ("recipe", "flag", "value"),
    [
        (MaskLossRecipe(points=0), "--loss.masks.points", 0),
        (MaskLossRecipe(oversample_ratio=0.5), "--loss.masks.oversample-ratio", 0.5),
        (MaskLossRecipe(importance_sample_ratio=1.5), "--loss.masks.importance-sample-ratio", 1.5),
    ],
)
def test_points_that_cannot_be_drawn(recipe: MaskLossRecipe, flag: str, value: float) -> None:
    with pytest.raises(ValueError, match=facts(flag, value)):
        MaskClassificationLoss(recipe)
