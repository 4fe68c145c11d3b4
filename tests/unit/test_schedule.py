from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semask.training.optim import poly_schedule

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
