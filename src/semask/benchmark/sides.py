"""What takes turns in a measurement: contenders, each with the work of one run and what it costs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from semask.benchmark.batches import FitsInMemory, fits_on_gpu, largest_batch, memory_limit
from semask.benchmark.clock import Work
from semask.benchmark.contender import Contender, compile_model, ours, recipe_of
from semask.benchmark.files import evaluate, load, with_data
from semask.benchmark.options import Options
from semask.benchmark.peers import peer
from semask.benchmark.work import Setting, work_of
from semask.models.encoders.recompute import recompute
from semask.models.flops import Cost, cost_of
from semask.models.model import SegmentationModel
from semask.ops.reference import plainly

PASSES = {"forward": 1, "predict": 1, "train": 3}
"""Multiply-adds of a run by those of its forward pass: backward takes twice as many."""


class Side(NamedTuple):
    """One of those that take turns.

    library: semask, plain (semask's plain formulations) or a peer's. size: (height, width) [px], empty where pictures
    have their own. batch: images at once; images: of one run. cost: of one image's forward pass, None where no model
    runs. multiply_adds: of one image in all passes, None where pictures differ in size. channels_last: whether the
    model was laid out so. recomputed: stages that are made again in the backward pass.
    """

    title: str
    library: str
    recipe: str
    run: Work
    size: tuple[int, ...]
    batch: int
    images: int
    cost: Cost | None = None
    multiply_adds: int | None = None
    channels_last: bool = False
    recomputed: tuple[int, ...] = ()


def sides_of(names: Sequence[str], options: Options, device: torch.device, folder: Path) -> list[Side]:
    """Return a side for every recipe or checkpoint and, after all of them, for what they are compared with.

    `folder` is for drawn files. A peer that two recipes share is there once.
    """
    if options.what == "load":
        return [_loading(name, options, folder) for name in names]
    found: dict[str, Side] = {}
    for contender in _contenders(names, options):
        if contender.title not in found:
            side = _side(contender, options, device, folder)
            found[side.title] = side
            if "plain" in options.against and contender.library == "semask":
                plain = _plain(side, contender, options, device)
                found[plain.title] = plain
    first = [side for side in found.values() if side.library == "semask"]
    return first + [side for side in found.values() if side.library != "semask"]


def _contenders(names: Sequence[str], options: Options) -> Iterator[Contender]:
    for name in names:
        contender = ours(name, options)
        yield contender
        for library in options.against:
            if library != "plain":
                yield peer(library, contender.recipe, options.size_for(contender.recipe.data.crop))


def _side(contender: Contender, options: Options, device: torch.device, folder: Path) -> Side:
    setting = _setting(contender, options, device)
    cost = cost_of(contender.module, setting.size)
    laid_out = _lay_out(contender.module, options)
    again = _recompute(contender, options)
    if options.compile:
        compile_model(contender.module)
    title, library, recipe = contender.title, contender.library, contender.recipe.name
    if options.what == "evaluate":
        recipe_with_data = with_data(contender.recipe, options, setting.size, folder)
        run = evaluate(contender._replace(recipe=recipe_with_data), setting, options)
        size = setting.size if recipe_with_data.data.root == str(folder) else ()
        return Side(title, library, recipe, run, size, options.batch_size, options.images, cost, None, laid_out)

    work = partial(work_of, options.what, contender, setting)
    batch = _largest(title, work, options, device) if options.max_batch else options.batch_size
    needed = PASSES[options.what] * cost.all_multiply_adds
    return Side(title, library, recipe, work(batch), setting.size, batch, batch, cost, needed, laid_out, again)


def _setting(contender: Contender, options: Options, device: torch.device) -> Setting:
    return Setting(device, options.dtype, options.size_for(contender.recipe.data.crop), options.step)


def _largest(title: str, work: Callable[[int], Work], options: Options, device: torch.device) -> int:
    """Return the largest batch that fits; a ValueError tells that none does.

    It is at least the usual one: batch norms of pooled maps train on no single image.
    """
    least = options.batch_size
    if device.type == "cuda":
        found = largest_batch(fits_on_gpu(work), least=least)
    else:
        work(least)()  # what a first run alone needs is not measured
        found = largest_batch(FitsInMemory(work, memory_limit(options.memory)), least=least)
    gc.collect()
    if not found:
        raise ValueError(
            f"not even a batch of {least} of {title!r} fits into the memory; give more --memory or a smaller --size"
        )
    return found


def _lay_out(module: nn.Module, options: Options) -> bool:
    """Lay a model out channels last where that was asked for, or where training does, and say whether it is."""
    wanted = options.channels_last
    if wanted is None:
        wanted = options.what == "train" and isinstance(module, SegmentationModel) and not module.encoder.channels_last
    if wanted:
        module.to(memory_format=torch.channels_last)
    return wanted


def _recompute(contender: Contender, options: Options) -> tuple[int, ...]:
    """Let a model of ours make stages again in the backward pass, and return which."""
    if options.what != "train" or not isinstance(contender.module, SegmentationModel):
        return ()
    recipe, wanted = contender.recipe.train.recompute_stages, options.recompute_stages
    stages = recipe if wanted is None else wanted
    recompute(contender.module.encoder, stages, flag="--recompute-stages")
    return stages


def _plain(side: Side, contender: Contender, options: Options, device: torch.device) -> Side:
    """Return the same model by plain formulations, with a largest batch of its own."""
    plain = side._replace(title=f"{side.title} (plain)", library="plain", run=_plainly(side.run))
    if not options.max_batch:
        return plain
    work = partial(work_of, options.what, contender, _setting(contender, options, device))
    batch = _largest(plain.title, lambda batch: _plainly(work(batch)), options, device)
    return plain._replace(run=_plainly(work(batch)), batch=batch, images=batch)


def _plainly(work: Work) -> Work:
    def run() -> object:
        with plainly():
            return work()

    return run


def _loading(name: str, options: Options, folder: Path) -> Side:
    recipe = recipe_of(name, options.root)
    size = options.size_for(recipe.data.crop)
    run = load(with_data(recipe, options, size, folder), options)
    images = options.images // options.batch_size * options.batch_size
    return Side(name, "semask", recipe.name, run, recipe.data.crop, options.batch_size, images)
