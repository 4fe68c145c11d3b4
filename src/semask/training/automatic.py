"""A recipe fitted to its data and machine: scale, crop, length, and weights of rare classes.

In the spirit of nnU-Net's fingerprint (arXiv:1904.08128): a few measurements and plain rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only

from semask.data.checks.class_counts import RARE_CROPS, counted, rare_weights
from semask.data.checks.fingerprint import Fingerprint, fingerprint
from semask.data.classes import Classes
from semask.files import write_json
from semask.inference.from_recipe import read_size
from semask.ops.device import memory_of
from semask.recipes import Recipe
from semask.recipes.decoders import MASK_CLASSIFIERS
from semask.training.options import RunOptions, resumed_checkpoint
from semask.training.prepare import CHOICE

THIN, THIN_SHARE, COARSE = 3.0, 0.25, 8.0
"""Images are enlarged where this share of the classes is thinner than THIN [px], and not reduced so far that any class
becomes thinner than COARSE [px]."""
FAR, NEARLY = 4.0, 0.75
"""Images whose side is more than FAR crops are reduced, unless that changes it by less than to NEARLY of it."""
MIXED = 2.0
"""Images whose sides differ by more than this factor are brought to one size."""
SMOOTH = 0.67
"""Reductions below this factor are antialiased."""
WHOLE_PIXELS = 2**23
"""Larger images are segmented window by window."""
EPOCHS = 100
"""Views of the whole training set that are enough [area of crops per area of images]."""
CPU_STEPS, FEWEST_STEPS, FEWEST_IMAGES = 500, 300, 2
AVERAGED = 1000
"""Runs of fewer steps train without a moving average."""
EVALUATION_SHARE, PASSES = 0.2, 3
"""Time of all evaluations beside that of the steps, one of which takes as long as so many forward passes."""
STEP_BYTES, MEMORY_SHARE = 6000, 0.5
"""Memory of a training step per pixel of its batch, measured for SeMask-T FPN, and the share that it may take."""


class Machine(NamedTuple):
    """The device that trains: whether it is a GPU, and its memory [GiB]."""

    gpu: bool
    memory: float


class Choice(NamedTuple):
    """The fitted recipe, the fields that were changed, and the reasons, a line each."""

    recipe: Recipe
    changes: dict[str, Any]
    reasons: tuple[str, ...]

    def write(self, out: Path) -> None:
        """Write the changes and their reasons into a run's folder, beside its recipe.json."""
        write_json(out / CHOICE, {"changes": self.changes, "reasons": self.reasons})


def choose(recipe: Recipe, classes: Classes, options: RunOptions, out: Path, *, keep: Collection[str]) -> Choice:
    """Fit a recipe to its data and this machine; a run that goes on keeps the choice of its beginning."""
    if (checkpoint := resumed_checkpoint(out, options)) is not None:
        file = checkpoint.with_name(CHOICE)
        if not file.is_file():  # the run began with --auto false
            return Choice(recipe, {}, ())
        record = json.loads(file.read_text(encoding="utf-8"))
        # JSON has lists for tuples
        changes = {
            path: tuple(value) if isinstance(value, list) else value
            for path, value in record["changes"].items()
            if path not in keep
        }
        return Choice(recipe.override(changes), changes, tuple(record["reasons"]))
    gpu = options.accelerator in {"auto", "gpu"} and torch.cuda.is_available()
    machine = Machine(gpu, memory_of(torch.device("cuda" if gpu else "cpu")) / 2**30)
    # the first reading of all files; the check that follows has their statistics
    found = fingerprint(recipe.data, classes, progress=getattr(rank_zero_only, "rank", 0) == 0)
    return fit_recipe(recipe, found, machine, names=classes.names, keep=keep)


def fit_recipe(
    recipe: Recipe, found: Fingerprint, machine: Machine, *, names: Sequence[str], keep: Collection[str] = ()
) -> Choice:
    """Fit a recipe to its data and machine.

    Args:
        recipe: Recipe whose crop, batch size and number of steps are upper limits.
        found: Measurements of the data.
        machine: The device that trains.
        names: Names of the classes.
        keep: Paths of fields that stay as they are, such as "data.crop": those that a user chose.

    >>> import semask
    >>> cells = Fingerprint(27, 3 * 512**2, 512, 512, 1.0, 512**2, (1_500_000, 5_500_000), (7.0, 30.0))
    >>> recipe = semask.get_recipe("folder/semask-lite0-fpn")
    >>> chosen = fit_recipe(recipe, cells, Machine(False, 16.0), names=("membrane", "cell"))
    >>> chosen.recipe.data.base_scale, chosen.recipe.data.crop, chosen.recipe.train.steps
    (None, (256, 256), 500)
    """
    fitting = Fitting(recipe, keep)
    reasons = (
        _fit_scale(fitting, found, names),
        _fit_length(fitting, found, machine),
        _fit_balance(fitting, found, names),
    )
    return Choice(fitting.recipe, fitting.changes, reasons)


class Fitting:
    """A recipe under change, whose fields in `keep` stay."""

    def __init__(self, recipe: Recipe, keep: Collection[str]) -> None:
        self.recipe, self.keep = recipe, keep
        self.changes: dict[str, Any] = {}

    def set(self, path: str, value: Any) -> None:
        """Set a field, unless the user chose it."""
        part, name = path.split(".")
        if path not in self.keep and getattr(getattr(self.recipe, part), name) != value:
            self.changes[path] = value
            self.recipe = self.recipe.override({path: value})


def _fit_scale(fitting: Fitting, found: Fingerprint, names: Sequence[str]) -> str:
    """Choose the scale and the range of values at which images are read, the crop and the windows."""
    side, crop = math.sqrt(found.height * found.width), min(fitting.recipe.data.crop)
    present = sorted((found.thickness[i], names[i]) for i in counted(found.pixels) if found.thickness[i])
    thinnest, thin = present[0] if present else (side, "any class")
    many_thin = sum(width < THIN for width, _ in present) >= THIN_SHARE * max(1, len(present))
    # enlarge what is thin, reduce what is far larger than a crop
    ratio, reason = 1.0, f"the thinnest class, {thin}, is {thinnest:.3g} px wide"
    if many_thin and (2 * side) ** 2 <= WHOLE_PIXELS:
        ratio = 2.0
    elif side > FAR * crop:
        reduced = round(max(FAR * crop / side, COARSE / thinnest), 2)
        if reduced < NEARLY:
            ratio, reason = reduced, f"crops show more, and {thin} is still {thinnest * reduced:.3g} px wide"
    if {"data.base_scale", "data.base_ratio"} & {*fitting.keep}:
        reason = "as the flags say"
    elif found.spread > MIXED:
        # one size for all: objects are large where the image is
        long, short = (round(ratio * pick(found.height, found.width)) for pick in (max, min))
        fitting.set("data.base_scale", (long, short))
        reason = f"their sides differ by a factor of {found.spread:.1f}; {reason}"
    else:
        fitting.set("data.base_scale", None)
        fitting.set("data.base_ratio", ratio)
    shown = read_size(fitting.recipe.data, found.height, found.width)
    fitting.set("data.antialias", shown[0] < SMOOTH * found.height or fitting.recipe.data.base_scale is not None)
    # crops no larger than the images, in multiples of the coarsest stride
    sides = (min(limit, math.ceil(own / 32) * 32) for limit, own in zip(fitting.recipe.data.crop, shown, strict=True))
    fitting.set("data.crop", tuple(sides))
    crop_size = fitting.recipe.data.crop
    windows = ""
    # a box brings all images to about one size
    largest = found.largest * fitting.recipe.data.base_ratio**2
    if (math.prod(shown) if fitting.recipe.data.base_scale is not None else largest) > WHOLE_PIXELS:
        fitting.set("test.mode", "sliding")
        fitting.set("test.window", crop_size)
        fitting.set("test.stride", tuple(each * 2 // 3 for each in fitting.recipe.test.window))
        windows = ", and segmented window by window"
    # values of files that do not name their range
    values = ""
    if found.value_range is not None:
        fitting.set("data.value_range", found.value_range[:2])
        values = f"; {found.value_range.reason}"
    if fitting.recipe.data.value_range is not None:
        low, high = fitting.recipe.data.value_range
        values += f"; {low:g} … {high:g} become 0 … 1"
    return (
        f"images of {found.height}×{found.width} px are read at {shown[0]}×{shown[1]}, in crops of "
        f"{crop_size[0]}×{crop_size[1]}{windows}: {reason}{values}"
    )


def _fit_length(fitting: Fitting, found: Fingerprint, machine: Machine) -> str:
    """Choose batch, steps, warm-up and evaluations."""
    recipe = fitting.recipe
    area, limit = math.prod(recipe.data.crop), recipe.train.steps
    batch = recipe.train.batch_size
    while batch > FEWEST_IMAGES and batch * area * STEP_BYTES > MEMORY_SHARE * machine.memory * 2**30:
        batch //= 2
    fitting.set("train.batch_size", batch)
    # as many views of all images as are enough, within what the recipe and a CPU take
    pixels = math.prod(read_size(recipe.data, found.height, found.width))
    if not machine.gpu:
        limit = min(limit, CPU_STEPS)
    views = EPOCHS * found.images * pixels / (fitting.recipe.train.batch_size * area)
    fitting.set("train.steps", min(limit, max(FEWEST_STEPS, math.ceil(views / 100) * 100)))
    steps = fitting.recipe.train.steps
    fitting.set("optim.warmup_steps", steps // 20)
    if steps < AVERAGED:
        fitting.set("train.ema", None)
    # evaluations that take a fifth of the time of the steps, 2 to 10 of them
    seen = found.validation_pixels * pixels / (found.height * found.width)
    worth = EVALUATION_SHARE * PASSES * steps * fitting.recipe.train.batch_size * area / max(1.0, seen)
    fitting.set("train.eval_every", math.ceil(steps / max(2, min(10, int(worth)))))
    train = fitting.recipe.train
    return (
        f"{train.steps} steps of {train.batch_size} crops, evaluated every {train.eval_every}: "
        f"{found.images} training images, on a {'GPU' if machine.gpu else 'CPU'} with {machine.memory:.0f} GiB"
    )


def _fit_balance(fitting: Fitting, found: Fingerprint, names: Sequence[str]) -> str:
    """Choose weights and crops for rare classes."""
    shares = [(found.pixels[index] / sum(found.pixels), names[index]) for index in counted(found.pixels)]
    share, rarest = min(shares, default=(1.0, "any class"))
    if (weighted := rare_weights(found.pixels)) is not None:
        if fitting.recipe.model.decoder.kind not in MASK_CLASSIFIERS:
            fitting.set("loss.class_weights", weighted)
        fitting.set("data.rare_crops", RARE_CROPS)
    chosen, crops = fitting.recipe.loss.class_weights, fitting.recipe.data.rare_crops
    weights = f"class weights up to {max(chosen):g}" if chosen else "equal class weights"
    around = f", {crops:.0%} of crops around rare classes" if crops else ""
    return f"{weights}{around}: the rarest class, {rarest}, has {share:.2%} of the labelled pixels"
