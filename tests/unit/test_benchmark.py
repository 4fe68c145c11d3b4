"""Rounds, percentiles, memory and the search for the largest batch, each against independent evidence."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semask.benchmark.machine import peak_rate
from semask.benchmark.memory import (
    Memory,
    fits_in_memory,
    in_fresh_process,
    largest_batch,
    peak_memory,
)
from semask.benchmark.options import Dtype
from semask.benchmark.rounds import Quantiles, Timings, alternate, cpu_time, wall
from semask.ops.device import available_memory
from tests.facts import facts

MIB = 2**20


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_percentiles_are_numpys(values: list[float]) -> None:
    found = Quantiles.of(values)
    quarter, median, three_quarters, p90, p99 = np.percentile(values, [25, 50, 75, 90, 99])
    expected = (median, quarter, three_quarters, p90, p99, min(values), max(values), len(values))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.to_dict()["iqr"] == pytest.approx(three_quarters - quarter, abs=1e-9 * max(values))


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  it has no value to name
        Quantiles.of([])


def test_every_side_runs_once_a_round_and_begins_by_turns() -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in "abc"}
    told: list[str] = []
    timings = alternate(sides, rounds=4, warmup=2, progress=told.append)
    rounds = ["".join(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert [sorted(each) for each in rounds] == [list("abc")] * 6
    assert rounds[2:] == ["abc", "bca", "cab", "abc"]
    assert all(before[0] != after[0] for before, after in itertools.pairwise(rounds))
    assert told == order
    assert {name: len(times) for name, times in timings.seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_clock_times_measured_runs_alone() -> None:
    readings = iter(range(100))

    def clock(work: object) -> float:
        return float(next(readings))

    timings = alternate({"a": lambda: None, "b": lambda: None}, rounds=2, warmup=1, clock=clock)
    assert timings.seconds == {"a": (2.0, 5.0), "b": (3.0, 4.0)}  # the second round begins with b


def test_ratios_are_of_one_round() -> None:
    """A machine that becomes ten times slower half-way changes no ratio."""
    timings = Timings({"new": (1.0, 10.0, 3.0), "old": (2.0, 20.0, 6.0)})
    ratio = timings.ratio("old", "new")
    assert (ratio.median, ratio.min, ratio.max, ratio.runs) == (2, 2, 2, 3)
    assert timings.ratio("old", "new", work=4).median == 0.5
    assert str(ratio) == "2.00 (2.00 … 2.00, 3 rounds)"


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 1), (3, -1)])
def test_rounds_that_are_none(rounds: int, warmup: int) -> None:
    with pytest.raises(ValueError, match=facts(rounds, warmup)):
        alternate({"a": lambda: None}, rounds=rounds, warmup=warmup)


def test_clocks_tell_waiting_from_computing() -> None:
    assert wall(lambda: time.sleep(0.05)) >= 0.05
    assert cpu_time(lambda: time.sleep(0.05)) < 0.05


def hold(mebibytes: int) -> None:
    """Hold a tensor of that size, every page of it, for a moment."""
    torch.ones(mebibytes * MIB // 4)


def measured(mebibytes: int) -> Memory:
    hold(1)
    return peak_memory(lambda: hold(mebibytes))


def test_the_memory_meter_reads_what_was_allocated() -> None:
    found = measured(200)
    assert found.meter == "VmHWM"
    assert 190 * MIB <= found.above <= 260 * MIB
    assert found.total >= found.above
    assert measured(1).above < 50 * MIB, "the high-water mark begins anew"


def test_a_fresh_process_gives_freed_blocks_back() -> None:
    """glibc reads these when a process begins; ours is left as it was."""
    assert in_fresh_process(os.getpid) != os.getpid()
    assert in_fresh_process(os.getenv, "MALLOC_TRIM_THRESHOLD_") == str(MIB)
    assert os.getenv("MALLOC_TRIM_THRESHOLD_") is None


@pytest.mark.slow
def test_the_memory_meter_in_a_fresh_process() -> None:
    found = in_fresh_process(measured, mebibytes=200)
    assert 190 * MIB <= found.above <= 260 * MIB


def test_free_memory_is_less_than_there_is() -> None:
    with open("/proc/meminfo", encoding="utf-8") as file:
        total = 1024 * int(file.readline().split()[1])
    assert 0 < available_memory() <= total


@given(st.integers(0, 300), st.integers(1, 3), st.integers(3, 200))
def test_the_largest_batch_is_that_of_trying_all(capacity: int, least: int, most: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= capacity

    expected = max((batch for batch in range(least, most + 1) if batch <= capacity), default=0)
    assert largest_batch(fits, least=least, most=most) == expected
    assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1
    assert max(tried) <= max(2 * capacity, least), "never far beyond what fits"


def test_what_needs_too_much_memory_is_never_run() -> None:
    """8 MiB for every image, and 64 MiB as a limit: 8 images fit, 16 are foreseen not to, and are not tried."""
    ran: list[int] = []

    def work(batch: int) -> object:
        def run() -> None:
            ran.append(batch)
            hold(8 * batch)

        return run

    fits = fits_in_memory(work, 66 * MIB)  # type: ignore[arg-type]
    assert largest_batch(fits) in (7, 8)
    assert max(ran) <= 9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fastest", ["product", "linear", "convolution"])
def test_the_peak_is_the_best_rate(fastest: str, dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that says a nanosecond for every multiply-add, half of one for the fastest."""
    sides: list[int] = []
    last = 0.0

    def ran(kind: str, work: int) -> None:
        nonlocal last
        last = work * (0.5e-9 if kind == fastest else 1e-9)

    def product(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        assert left.dtype == right.dtype == out.dtype == getattr(torch, dtype)
        sides.append(len(left))
        ran("product", len(left) ** 3)

    def convolve(images: torch.Tensor, weights: torch.Tensor, *, padding: int) -> None:
        assert images.dtype == weights.dtype == getattr(torch, dtype)
        ran("convolution", images[0, 0].numel() * weights.numel())

    def clock(work: Callable[[], object]) -> float:
        work()
        return last

    monkeypatch.setattr("torch.mm", product)
    monkeypatch.setattr("torch.nn.functional.conv2d", convolve)
    monkeypatch.setattr("semask.benchmark.machine.has_onednn", lambda: True)
    monkeypatch.setattr("semask.benchmark.machine.by_onednn", lambda left, *_: ran("linear", len(left) ** 3))
    monkeypatch.setattr("semask.benchmark.machine.clock_of", lambda device: clock)
    best = 1e9 if (fastest, dtype) == ("linear", "bfloat16") else 2e9
    assert peak_rate(torch.device("cpu"), dtype) == pytest.approx(best)
    # matrices grow until a product takes long enough: 0.017 s, 0.134 s, or half of it
    assert list(dict.fromkeys(sides)) == [256, 512]
