"""A whole measurement: build the cases, let them take turns, and record everything."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from semask.benchmark.candidate import INSIDE, Candidate, as_candidate, evaluate, load, recipe_of, with_data, work_of
from semask.benchmark.machine import MachineLoad, environment, peak_rate
from semask.benchmark.memory import SHARE, fits_in_memory, largest_batch, peak_memory
from semask.benchmark.options import Options, check
from semask.benchmark.result import FORMAT, KIND
from semask.benchmark.rounds import Work, alternate, clock_of
from semask.benchmark.third_party import third_party
from semask.checkpoints import store
from semask.exports.runtime import ExportedModel
from semask.models.build import build, build_on_meta
from semask.models.flops import cost_of
from semask.models.model import SegmentationModel
from semask.ops.device import available_memory, pick_device
from semask.ops.memory import checkpoint_stages
from semask.ops.reference import is_reference, reference_mode
from semask.recipes import list_recipes

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
    # a library's model that two recipes share is measured once
    found: dict[str, Case] = {}
    for name in names:
        recipe = recipe_of(name, options.root)
        if options.what == "load":
            # the loader of training alone: no model, and so no cost
            batch = options.batch_size
            facts = {"recipe": recipe.name, "size": list(recipe.data.crop), "batch": batch, "channels_last": False}
            facts |= {"checkpoint_stages": [], "parameters": None, "multiply_adds": None}
            run = load(with_data(recipe, options, folder), options)
            found[name] = Case(name, "semask", run, options.images // batch * batch, facts)
            continue
        # random weights cost what trained ones cost
        model = build(recipe) if name in list_recipes() else store.load(name).model
        own = as_candidate(name, model, recipe, test=options.test)
        size = options.size_for(recipe.data.crop)
        rivals = (third_party(library, recipe, size) for library in options.against if library != "reference")
        for each in (own, *rivals):
            if each.title not in found:
                found |= {case.title: case for case in cases_of_model(each, options, device, folder)}
    # recipes first, rivals after them
    return sorted(found.values(), key=lambda case: case.library != "semask")


def cases_of_model(one: Candidate, options: Options, device: torch.device, folder: Path) -> list[Case]:
    """A candidate's case and, with --against reference, the one of its reference forms."""
    recipe, module, training = one.recipe, one.module, options.what == "train"
    ours = module if isinstance(module, SegmentationModel) else None
    size = options.size_for(recipe.data.crop)
    # cost first: it is counted on a twin without weights
    exported = isinstance(module, ExportedModel)
    if exported and options.what == "train":
        raise ValueError(f"{one.title} is an exported file and cannot be trained; use --what predict")
    cost = cost_of(build_on_meta(recipe) if exported else module, size)
    # memory format
    channels_last = options.channels_last
    if channels_last is None:
        channels_last = training and ours is not None and not ours.channels_last
    if channels_last:
        module.to(memory_format=torch.channels_last)
    # activation checkpointing
    stages: tuple[int, ...] = ()
    if training and ours is not None:
        stages = recipe.train.checkpoint_stages if options.checkpoint_stages is None else options.checkpoint_stages
        checkpoint_stages(cast(nn.Module, ours.encoder), stages, flag="--checkpoint-stages")
    if options.compile:
        module.compile()
        if ours is not None:
            # nn.Module.compile covers the call alone, which training uses
            ours.decode_main = torch.compile(ours.decode_main)  # type: ignore[method-assign]
    facts = {"recipe": recipe.name, "size": list(size), "batch": options.batch_size, "channels_last": channels_last}
    facts |= {"checkpoint_stages": list(stages), "parameters": cost.parameters, "multiply_adds": None}
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

        batch = largest(title, work, options, device) if options.max_batch else options.batch_size
        cases.append(Case(title, library, work(batch), batch, {**facts, "batch": batch}))
    return cases


def largest(title: str, work: Callable[[int], Work], options: Options, device: torch.device) -> int:
    """The largest batch of a case that fits into the memory.

    Raises:
        ValueError: not even the usual batch does.
    """
    # from the usual batch on: some batch norms train on no single image
    least, limit = options.batch_size, None
    if device.type == "cpu":
        work(least)()  # a first run allocates more
        limit = SHARE * available_memory() if options.memory is None else options.memory * 2**30
    found = largest_batch(fits_in_memory(work, limit), least=least)
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
        return 0.0 if options.what == "load" else peak_rate(device, options.dtype)

    with reference_mode(options.reference or is_reference()), tempfile.TemporaryDirectory() as folder:
        # the better of two peaks, before and after: other programs slow them down too
        before = peak()
        cases = cases_of(names, options, device, Path(folder))
        measured, load = take_turns(cases, options, device, progress)
        around = {**environment(device), "machine_load": load}
        best = max(before, peak())
    # the share of the peak that each case reaches
    for entry in measured:
        work = entry["multiply_adds"]
        entry["share_of_peak"] = work * entry["images_per_second"] / best if best and work is not None else None
    return {"kind": KIND, "format": FORMAT, "environment": around, "peak_rate": best or None, "measured": measured}


def take_turns(
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
    runs = len(cases) * (options.warmup + options.rounds + 2)
    first = {}
    for case in cases:
        first[case.title] = clock(case.run)
        progress(case.title, runs)
    # the rounds, with the load of other processes meanwhile
    load = MachineLoad()
    timings = alternate(
        {case.title: case.run for case in cases},
        rounds=options.rounds,
        warmup=options.warmup,
        clock=after_emptying if options.max_batch and device.type == "cuda" and len(cases) > 1 else clock,
        progress=lambda title: progress(title, runs),
    )
    cores = load.cores()
    # one run more of each for its peak memory: the meters would take time from the rounds
    entries = []
    files, labels = options.reads_files, options.what in ("predict", "evaluate")
    for case in cases:
        memory = peak_memory(case.run, device)
        progress(case.title, runs)
        # speed follows from the median, which single slow rounds do not move
        seconds = timings.quantiles(case.title)
        rate = case.images / seconds.median
        entries.append(
            {
                "title": case.title,
                "library": case.library,
                **case.facts,
                **{name: getattr(options, name) for name in ("what", "dtype", "compile")},
                "inside": [*INSIDE[options.what], *(["optimiser's step"] if options.step else [])],
                "largest_batch": options.max_batch,
                "reference": is_reference() or case.library == "reference",
                "test": options.test if labels else None,
                "workers": options.workers if files else None,
                "images_per_run": case.images,
                "rounds": seconds.runs,
                "seconds": seconds.to_dict(),
                "every_second": list(timings.seconds[case.title]),
                "images_per_second": rate,
                "images_per_second_of_a_worker": rate / options.workers if files and options.workers else None,
                # the time for an image over the first case's
                "time_to_first": timings.ratio(
                    case.title, cases[0].title, work=case.images / cases[0].images
                ).to_dict(),
                "to": cases[0].title,
                "memory": memory._asdict(),
                "seconds_of_first_run": first[case.title],
            }
        )
    return entries, cores
