"""A whole measurement: build the cases, let them take turns, and record everything."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from semask.benchmark.candidate import Candidate, candidate, compile_model, recipe_of
from semask.benchmark.machine import MachineLoad, environment, matmul_peak
from semask.benchmark.memory import fits_in_ram, fits_on_gpu, largest_batch, memory_limit, peak_memory
from semask.benchmark.options import Options, check
from semask.benchmark.result import FORMAT, KIND
from semask.benchmark.rounds import Quantiles, Timings, Work, alternate, clock_of
from semask.benchmark.third_party import third_party
from semask.benchmark.works import INSIDE, evaluate, load, with_data, work_of
from semask.models.flops import cost_of
from semask.models.model import SegmentationModel
from semask.ops.device import pick_device
from semask.ops.memory import checkpoint_stages
from semask.ops.reference import is_reference, reference_mode

PASSES = {"forward": 1, "predict": 1, "train": 3}
"""Multiply-adds of a run in forward passes: the backward pass takes twice as many."""
Progress = Callable[[str, int], None]
"""A function that is called after every run, with its case and the number of all runs."""


class Case(NamedTuple):
    """One of the models that take turns.

    library: semask, reference (semask's reference forms) or another library. images: number of images in a run. facts:
    recipe, size (height, width) [px], empty where images have their own, batch, memory format, checkpointed stages,
    parameters, and multiply-adds of an image in all passes, None where these are unknown.
    """

    title: str
    library: str
    run: Work
    images: int
    facts: dict[str, Any]


def cases_of(names: Sequence[str], options: Options, device: torch.device, folder: Path) -> list[Case]:
    """A case for every recipe or checkpoint and, after all of these, for their rivals; `folder` takes drawn files."""
    if options.what == "load":
        # the loader of training alone: no model, and so no cost
        unknown = {"channels_last": False, "checkpoint_stages": [], "parameters": None, "multiply_adds": None}
        loading, batch = [], options.batch_size
        for name in names:
            recipe = recipe_of(name, options.root)
            facts = {"recipe": recipe.name, "size": list(recipe.data.crop), "batch": batch, **unknown}
            run = load(with_data(recipe, options, folder), options)
            loading.append(Case(name, "semask", run, options.images // batch * batch, facts))
        return loading
    # a library's model that two recipes share is measured once
    found: dict[str, Case] = {}
    for name in names:
        own = candidate(name, options)
        rivals = [library for library in options.against if library != "reference"]
        others = (third_party(library, own.recipe, options.size_for(own.recipe.data.crop)) for library in rivals)
        for each in (own, *others):
            if each.title not in found:
                for case in _cases(each, options, device, folder):
                    found[case.title] = case
    # recipes first, rivals after them
    return sorted(found.values(), key=lambda case: case.library != "semask")


def _cases(one: Candidate, options: Options, device: torch.device, folder: Path) -> list[Case]:
    """A candidate's case and, with --against reference, the one of its reference forms."""
    recipe, module = one.recipe, one.module
    ours = module if isinstance(module, SegmentationModel) else None
    size = options.size_for(recipe.data.crop)
    # cost first: it is counted on a twin without weights
    cost = cost_of(module, size)
    # memory format
    channels_last = options.channels_last
    if channels_last is None:
        channels_last = options.what == "train" and ours is not None and not ours.channels_last
    if channels_last:
        module.to(memory_format=torch.channels_last)
    # activation checkpointing
    stages: tuple[int, ...] = ()
    if options.what == "train" and ours is not None:
        stages = recipe.train.checkpoint_stages if options.checkpoint_stages is None else options.checkpoint_stages
        checkpoint_stages(cast(nn.Module, ours.encoder), stages, flag="--checkpoint-stages")
    if options.compile:
        compile_model(module)
    facts = {
        "recipe": recipe.name,
        "size": list(size),
        "batch": options.batch_size,
        "channels_last": channels_last,
        "checkpoint_stages": list(stages),
        "parameters": cost.parameters,
        "multiply_adds": None,
    }
    # the fast paths, and the reference forms of the same model, by a context that also decorates functions
    ways: list[tuple[str, str, Callable[[Work], Work]]] = [(one.title, one.library, lambda work: work)]
    if "reference" in options.against and one.library == "semask":
        ways.append((f"{one.title} (reference)", "reference", reference_mode()))
    if options.what == "evaluate":
        recipe = with_data(recipe, options, folder)
        facts["size"] = list(size) if recipe.data.root == str(folder) else []
        run = evaluate(one._replace(recipe=recipe), options, device)
        return [Case(title, library, way(run), options.images, facts) for title, library, way in ways]
    # random images: their number, and so the cost, is known
    facts["multiply_adds"] = PASSES[options.what] * cost.all_multiply_adds
    cases = []
    for title, library, way in ways:

        def work(batch: int, way: Callable[[Work], Work] = way) -> Work:
            return way(work_of(one, options, device, batch))

        batch = _largest(title, work, options, device) if options.max_batch else options.batch_size
        cases.append(Case(title, library, work(batch), batch, {**facts, "batch": batch}))
    return cases


def _largest(title: str, work: Callable[[int], Work], options: Options, device: torch.device) -> int:
    # from the usual batch on: some batch norms train on no single image
    least = options.batch_size
    if device.type == "cuda":
        fits = fits_on_gpu(work)
    else:
        work(least)()  # a first run allocates more
        fits = fits_in_ram(work, memory_limit(options.memory))
    found = largest_batch(fits, least=least)
    gc.collect()  # the work of the last trial
    if not found:
        raise ValueError(
            f"not even a batch of {least} of {title!r} fits into the memory; give more --memory or a smaller --size"
        )
    return found


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
