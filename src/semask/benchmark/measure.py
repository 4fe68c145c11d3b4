"""A whole measurement: build the cases, let them take turns, and record everything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from semask.benchmark.cases import Case, cases_of
from semask.benchmark.machine import MachineLoad, environment, matmul_peak
from semask.benchmark.memory import peak_memory
from semask.benchmark.options import Options, check
from semask.benchmark.result import FORMAT, KIND
from semask.benchmark.rounds import Quantiles, Timings, Work, alternate, clock_of
from semask.benchmark.works import INSIDE
from semask.ops.device import pick_device
from semask.ops.reference import is_reference, reference_mode

Progress = Callable[[str, int], None]
"""A function that is called after every run, with its case and the number of all runs."""


def measure(names: Sequence[str], options: Options, progress: Progress = lambda title, runs: None) -> dict[str, Any]:
    """Measure recipes, or checkpoints by their folders, and their rivals, and return the record as JSON values.

    The number of threads that torch uses stays as the options set it.

    Raises:
        ValueError: a recipe or an option cannot be measured.
    """
    check(names, options)
    # threads, device and random numbers, before anything is built
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)

    def peak() -> float:
        return 0.0 if options.what == "load" else matmul_peak(device, options.dtype)

    with reference_mode(options.reference or is_reference()), tempfile.TemporaryDirectory() as folder:
        # the better of two peaks, before and after: other programs slow them down too
        before = peak()
        cases = cases_of(names, options, device, Path(folder))
        measured, load = _take_turns(cases, options, device, progress)
        around = {**environment(device), "machine_load": load}
        best = max(before, peak())
    # the share of the peak that each case reaches
    for entry in measured:
        work = entry["multiply_adds"]
        entry["share_of_peak"] = work * entry["images_per_second"] / best if best and work is not None else None
    return {"kind": KIND, "format": FORMAT, "environment": around, "matmul_peak": best or None, "measured": measured}


def _take_turns(
    cases: Sequence[Case], options: Options, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], float | None]:
    """The cases' entries, and the number of cores that other processes had meanwhile."""
    clock = clock_of(device)

    def after_emptying(work: Work) -> float:
        # each case fills the GPU's memory: free the cache of the last one's run
        torch.cuda.empty_cache()
        work()
        return clock(work)

    # first runs, which compile and allocate, apart from the rounds
    works = {case.title: case.run for case in cases}
    runs = len(works) * (options.warmup + options.rounds + 2)
    first = {}
    for title, run in works.items():
        first[title] = clock(run)
        progress(title, runs)
    # the rounds, with the load of other processes meanwhile
    load = MachineLoad()
    timings = alternate(
        works,
        rounds=options.rounds,
        warmup=options.warmup,
        clock=after_emptying if options.max_batch and device.type == "cuda" and len(cases) > 1 else clock,
        progress=lambda title: progress(title, runs),
    )
    cores = load.cores()
    # one run more of each for its peak memory: the meters would take time from the rounds
    entries = []
    for case, ratio in zip(cases, ratios(cases, timings), strict=True):
        memory = peak_memory(case.run, device)
        progress(case.title, runs)
        values = {"time_to_first": ratio.to_dict(), "to": cases[0].title, "memory": memory._asdict()}
        entries.append({**entry(case, timings, options), **values, "seconds_of_first_run": first[case.title]})
    return entries, cores


def ratios(cases: Sequence[Case], timings: Timings) -> list[Quantiles]:
    """Every case's time for an image over the first case's, as quantiles of the rounds' ratios."""
    per_image = [[seconds / case.images for seconds in timings.seconds[case.title]] for case in cases]
    return [Quantiles.of([ours / first for ours, first in zip(each, per_image[0], strict=True)]) for each in per_image]


def entry(case: Case, timings: Timings, options: Options) -> dict[str, Any]:
    """The settings and the speed of a case as JSON values."""
    seconds = timings.quantiles(case.title)
    # speed follows from the median, which single slow rounds do not move
    rate = case.images / seconds.median
    return {
        "title": case.title,
        "library": case.library,
        **case.facts,
        "what": options.what,
        "inside": [*INSIDE[options.what], *(["optimiser's step"] if options.step else [])],
        "largest_batch": options.max_batch,
        "dtype": options.dtype,
        "compile": options.compile,
        "reference": is_reference() or case.library == "reference",
        "test": options.test if options.what in ("predict", "evaluate") else None,
        "workers": options.workers if options.reads_files else None,
        "images_per_run": case.images,
        "rounds": seconds.runs,
        "seconds": seconds.to_dict(),
        "every_second": list(timings.seconds[case.title]),
        "images_per_second": rate,
        "images_per_second_of_a_worker": rate / options.workers if options.reads_files and options.workers else None,
    }
