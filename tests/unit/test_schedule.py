from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semask.recipes import OptimRecipe
from semask.training.optim import cosine_schedule, poly_schedule, schedule

ADE = {"steps": 80_000, "power": 1.0, "warmup_steps": 1500, "warmup_ratio": 1e-6}


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-6),  # the ratio itself
        (750, (1 - 750 / 80_000) * (1 - 0.5 * (1 - 1e-6))),
        (1499, (1 - 1499 / 80_000) * (1 - (1 / 1500) * (1 - 1e-6))),
        (1500, 0.98125),  # (80000 - 1500) / 80000
        (40_000, 0.5),
        (79_999, 1.25e-5),
        (80_000, 0.0),
        (90_000, 0.0),
    ],
)
def test_published_schedule(step: int, factor: float) -> None:
    assert poly_schedule(step, **ADE) == pytest.approx(factor, rel=1e-9, abs=0)


def test_power() -> None:
    factor = poly_schedule(75, steps=100, power=0.9, warmup_steps=0, warmup_ratio=1.0)
    assert factor == pytest.approx(0.25**0.9)


def test_segmenters_floor() -> None:
    """The rates that the authors' scheduler gives over ten steps, and the floor after them."""
    rates = [1e-3 * poly_schedule(step, steps=10, power=0.9, floor=1e-5 / 1e-3) for step in (0, 1, 2, 3, 10, 11)]
    published = [0.001, 0.0009104372503221326, 0.0008198716245903498, 0.0007281636684678477, 1e-5, 1e-5]
    assert rates == pytest.approx(published, rel=1e-12)


@given(
    steps=st.integers(2, 10_000),
    power=st.floats(0.1, 3),
    share=st.floats(0, 1),
    ratio=st.floats(1e-6, 1),
    position=st.floats(0, 1),
)
def test_warm_up_only_lowers_and_then_falls(
    steps: int, power: float, share: float, ratio: float, position: float
) -> None:
    warmup = int(share * steps)
    step = int(position * (steps - 1))
    spec = {"steps": steps, "power": power, "warmup_steps": warmup, "warmup_ratio": ratio}
    plain = poly_schedule(step, **{**spec, "warmup_steps": 0})
    assert 0 < poly_schedule(step, **spec) <= plain * (1 + 1e-12) <= 1 + 1e-12
    if step >= warmup:
        assert poly_schedule(step, **spec) == plain
        assert poly_schedule(step + 1, **spec) < plain


def test_cosine_is_torchs() -> None:
    """PyTorch's annealing, after a warm-up that it does not have."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=90, eta_min=0.01)
    for step in range(10, 100):
        ours = cosine_schedule(step, steps=100, warmup_steps=10, warmup_ratio=0.1, floor=0.01)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        theirs.step()
    assert cosine_schedule(100, steps=100, warmup_steps=10, floor=0.01) == pytest.approx(0.01)
    assert cosine_schedule(500, steps=100, warmup_steps=10, floor=0.01) == pytest.approx(0.01)


def test_cosine_warms_up_linearly() -> None:
    rates = [cosine_schedule(step, steps=100, warmup_steps=4, warmup_ratio=0.2) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_recipe_chooses() -> None:
    options = {"steps": 50, "warmup_steps": 5, "warmup_ratio": 0.1, "floor": 0.5}
    recipe = OptimRecipe(lr=2e-3, min_lr=1e-3, power=0.7, warmup_steps=5, warmup_ratio=0.1)
    for step in (0, 3, 17, 49):
        assert schedule(recipe, 50, 2e-3)(step) == poly_schedule(step, power=0.7, **options)
        cosine = OptimRecipe(**{**vars(recipe), "schedule": "cosine"})
        assert schedule(cosine, 50, 2e-3)(step) == cosine_schedule(step, **options)


def test_every_group_falls_to_the_same_rate() -> None:
    recipe = OptimRecipe(lr=1e-2, min_lr=1e-4, power=0.9, warmup_steps=0)
    for lr in (1e-2, 1e-3):
        assert lr * schedule(recipe, 50, lr)(0) == pytest.approx(lr)
        assert lr * schedule(recipe, 50, lr)(50) == pytest.approx(1e-4)
    assert schedule(recipe, 50, 1e-5)(50) == 1.0
