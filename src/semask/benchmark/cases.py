"""The cases of a measurement: candidates, each with the work of one run and the facts that its record holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from semask.benchmark.candidate import Candidate, candidate, compile_model, recipe_of
from semask.benchmark.memory import fits_in_ram, fits_on_gpu, largest_batch, memory_limit
from semask.benchmark.options import Options
from semask.benchmark.rounds import Work
from semask.benchmark.third_party import third_party
from semask.benchmark.works import evaluate, load, with_data, work_of
from semask.models.flops import cost_of
from semask.models.model import SegmentationModel
from semask.ops.memory import checkpoint_stages
from semask.ops.reference import reference_mode

PASSES = {"forward": 1, "predict": 1, "train": 3}
"""Multiply-adds of a run in forward passes: the backward pass takes twice as many."""


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
    """A case for every recipe or checkpoint and, after all of these, for their rivals.

    Args:
        names: Recipes, or folders of checkpoints.
        options: Settings of the measurement.
        device: Device of the models.
        folder: Folder for drawn files.
    """
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
