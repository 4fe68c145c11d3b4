"""Targets, costs and assignments, against loops and all permutations."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.losses.matching import Targets, find_targets, match, pair_costs
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE
from tests.facts import facts


def targets_of(counts: list[int]) -> Targets:
    classes = torch.arange(max(counts)).expand(len(counts), -1) * 2
    return Targets(torch.zeros(len(counts), 1, 1, dtype=torch.uint8), classes, tuple(counts))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_classes_of_each_image(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[7, 0, IGNORE], [7, 3, 0]], [[IGNORE] * 3] * 2, [[5, 5, 5]] * 2], dtype=dtype)
    targets = find_targets(labels, 8)
    assert targets.counts == (3, 0, 1)
    assert targets.classes.tolist() == [[0, 3, 7], [0, 0, 0], [5, 0, 0]]
    assert targets.pairs(2) == (2, 0, 1)
    assert targets.images_of_pairs(2).tolist() == [0, 0, 2]


def test_ids_that_are_no_classes() -> None:
    with pytest.raises(ValueError, match=facts("0 … 3", 255, "4, 9")):
        find_targets(torch.tensor([[[0, 9, 4, IGNORE]]]), 4)


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_costs_against_loops(kind: str) -> None:
    recipe = MaskLossRecipe(class_weight=2, mask_weight=3, dice_weight=5, mask_loss=kind)
    class_logits, mask_logits = torch.randn(2, 4, 6), 2 * torch.randn(2, 4, 7)
    classes = torch.tensor([[0, 2, 4], [1, 3, 0]])
    weights = (torch.rand(2, 7) < 0.7).float()
    masks = torch.rand(2, 3, 7) * weights[:, None]
    found = pair_costs(class_logits, mask_logits, classes=classes, masks=masks, weights=weights, recipe=recipe)
    for b, q, t in itertools.product(range(2), range(4), range(3)):
        pixel = overlap = area = 0.0
        for n in range(7):
            weight, share, logit = float(weights[b, n]), float(masks[b, t, n]), float(mask_logits[b, q, n])
            p = 1 / (1 + math.exp(-logit))
            inside, outside = -math.log(p), -math.log(1 - p)
            if kind == "focal":
                inside, outside = 0.25 * (1 - p) ** 2 * inside, 0.75 * p**2 * outside
            pixel += weight * (share * inside + (1 - share) * outside)
            overlap += weight * p * share
            area += weight * (p + share)
        probability = float(class_logits[b, q].softmax(-1)[classes[b, t]])
        expected = -2 * probability + 3 * pixel / float(weights[b].sum()) + 5 * (1 - (2 * overlap + 1) / (area + 1))
        assert float(found[b, q, t]) == pytest.approx(expected, abs=1e-5)


def test_costs_are_float32_and_without_gradient_under_autocast() -> None:
    class_logits = torch.randn(1, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    mask_logits = torch.randn(1, 3, 50, dtype=torch.bfloat16, requires_grad=True)
    given_ = {
        "classes": torch.tensor([[0, 2]]),
        "masks": torch.rand(1, 2, 50),
        "weights": torch.ones(1, 50),
        "recipe": MaskLossRecipe(),
    }
    expected = pair_costs(class_logits.float(), mask_logits.float(), **given_)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pair_costs(class_logits, mask_logits, **given_)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5), st.lists(st.integers(0, 6), min_size=1, max_size=3).filter(any))
def test_the_cheapest_of_all_assignments(seed: int, queries: int, counts: list[int]) -> None:
    costs = torch.rand(2, len(counts), queries, max(counts), generator=torch.Generator().manual_seed(seed))
    found = match(costs, targets_of(counts))
    assert found.images.tolist() == [i for i, count in enumerate(counts) for _ in range(min(count, queries))]
    for number, image in itertools.product(range(2), range(len(counts))):
        mine = found.images == image
        rows, columns = found.queries[number, mine].tolist(), (found.classes[number, mine] // 2).tolist()
        assert rows == sorted(set(rows))
        assert len(set(columns)) == len(columns)
        assert all(column < counts[image] for column in columns)
        table = costs[number, image, :, : counts[image]].double().numpy()
        # the shorter side is assigned in order; every choice and order of the longer one is tried
        short = table if queries <= counts[image] else table.T
        cheapest = min(
            sum(short[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(short.shape[1]), short.shape[0])
        )
        assert table[rows, columns].sum() == pytest.approx(cheapest, abs=1e-9)


def test_nothing_to_match() -> None:
    found = match(torch.zeros(3, 2, 4, 0), targets_of_nothing())
    assert found.images.shape == (0,)
    assert found.queries.shape == found.classes.shape == (3, 0)


def targets_of_nothing() -> Targets:
    return find_targets(torch.full((2, 4, 4), IGNORE), 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_costs_that_are_not_finite_are_the_last_choice(bad: float) -> None:
    """The other pairs are matched as if the bad query were not there."""
    costs = torch.rand(1, 1, 6, 4)
    costs[0, 0, 2] = bad
    found = match(costs, targets_of([4]))
    others = torch.cat((costs[:, :, :2], costs[:, :, 3:]), dim=2)
    expected = match(others, targets_of([4]))
    assert found.queries.tolist() == [[q + (q >= 2) for q in expected.queries[0].tolist()]]
    assert found.classes.tolist() == expected.classes.tolist()
    assert match(torch.full((1, 1, 6, 4), bad), targets_of([4])).queries.shape == (1, 4)


def test_queries_without_finite_costs_do_not_blur_the_others() -> None:
    """Two of six queries are lost, and six targets want one; the other four are matched as well as they can be."""
    costs = torch.rand(3000, 1, 6, 6)
    costs[:, :, [1, 3]] = math.nan
    found = match(costs, targets_of([6]))
    good = [0, 2, 4, 5]
    orders = torch.tensor(list(itertools.permutations(range(6), 4)))
    cheapest = costs[:, 0][:, torch.tensor(good), orders].sum(-1).amin(1)
    mine = costs[:, 0, good].gather(2, found.classes[:, good, None] // 2).sum((1, 2))
    torch.testing.assert_close(mine, cheapest)


def test_costs_go_to_the_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many predictions and images there are."""
    transfers: list[tuple[int, ...]] = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(tuple(self.shape)) or cpu(self))
    match(torch.rand(10, 3, 5, 4), targets_of([4, 1, 0]))
    assert transfers == [(10, 3, 5, 4)]
