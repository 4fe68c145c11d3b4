"""A whole measurement: build the sides, let them take turns, and write everything down."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from semask.benchmark.clock import Clock, Work, clock_of
from semask.benchmark.environment import environment
from semask.benchmark.memory import peak_memory
from semask.benchmark.options import Options, check
from semask.benchmark.others import Others
from semask.benchmark.peak import matmul_peak
from semask.benchmark.record import FORMAT, KIND, entry, ratios
from semask.benchmark.rounds import alternate
from semask.benchmark.sides import Side, sides_of
from semask.ops.device import pick_device
from semask.ops.reference import is_plain, plainly

Progress = Callable[[str, int], None]
"""Called with what was run, after every run, and with how many runs there will be in all."""


def measure(names: Sequence[str], options: Options, progress: Progress = lambda title, runs: None) -> dict[str, Any]:
    """Measure recipes, or checkpoints by their folders, and their peers, and return the record as JSON values.

    `progress` is told what was run and how many runs there will be in all. The number of threads that torch uses is
    left as the options say. A ValueError tells what cannot be measured.
    """
    check(names, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    with plainly(options.plain or is_plain()), tempfile.TemporaryDirectory() as folder:
        # Before and after, and the better of both: what else runs on a machine takes of its peak too.
        before = _peak(device, options)
        sides = sides_of(names, options, device, Path(folder))
        measured, others = _take_turns(sides, options, device, progress)
        around = {**environment(device), "others": others}
        peak = max(before, _peak(device, options))
    for values in measured:
        values["share_of_peak"] = _share(values, peak)
    return {
        "kind": KIND,
        "format": FORMAT,
        "environment": around,
        "matmul_peak": peak or None,
        "measured": measured,
    }


def _take_turns(
    sides: Sequence[Side], options: Options, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], float | None]:
    """Return the sides' entries, and how many cores other processes had meanwhile."""
    clock = clock_of(device)
    if options.max_batch and device.type == "cuda" and len(sides) > 1:
        clock = _settled(clock)
    works = {side.title: side.run for side in sides}
    runs = len(works) * (options.warmup + options.rounds + 2)
    first = {}
    for title, run in works.items():
        first[title] = clock_of(device)(run)
        progress(title, runs)
    others = Others()
    timings = alternate(
        works,
        rounds=options.rounds,
        warmup=options.warmup,
        clock=clock,
        progress=lambda title: progress(title, runs),
    )
    had = others.cores()
    entries = []
    for side, ratio in zip(sides, ratios(sides, timings), strict=True):
        memory = peak_memory(side.run, device)
        progress(side.title, runs)
        values = entry(side, timings, sides[0].title, memory, options)
        entries.append({**values, "time_to_first": ratio, "seconds_of_first_run": first[side.title]})
    return entries, had


def _settled(clock: Clock) -> Clock:
    """Return a clock for sides that each fill a GPU's memory: what the last one's run kept is given back before."""

    def settled(work: Work) -> float:
        torch.cuda.empty_cache()
        work()
        return clock(work)

    return settled


def _peak(device: torch.device, options: Options) -> float:
    """Return the rate of a large matrix product; 0 where no model runs."""
    return 0.0 if options.what == "load" else matmul_peak(device, options.dtype)


def _share(values: dict[str, Any], peak: float) -> float | None:
    """Return the multiply-adds per second over those of a large matrix product."""
    if not peak or values["multiply_adds"] is None:
        return None
    return float(values["multiply_adds"] * values["images_per_second"] / peak)
