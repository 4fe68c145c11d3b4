"""`semask train RECIPE`: train a model by a recipe, whose every field is a flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from tyro.conf import AvoidSubcommands, FlagConversionOff, arg

from semask.checkpoints.record import RECORD, read_record
from semask.cli.flags import parse_over, split_name, take
from semask.recipes import (
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    TestRecipe,
    TrainRecipe,
    get_recipe,
    list_recipes,
)
from semask.recipes.kinds import with_augment, with_decoder, with_pixel_decoder, with_semantic
from semask.training.options import RunOptions, folder_of, resumed_checkpoint

if TYPE_CHECKING:
    from semask.training.run import TrainResult

USAGE = "semask train RECIPE"
FIRST = (
    *("run.out", "run.resume", "run.init", "run.overwrite", "run.from-scratch", "run.workers"),
    "data.root",
    "data.classes",
    "data.crop",
    "model.num-classes",
    "model.encoder.weights",
    "loss.class-weights",
    "optim.lr",
    "train.steps",
    "train.batch-size",
    "train.eval-every",
    "train.early-stop",
    "train.freeze",
    "train.seed",
    "train.precision",
    "test.mode",
)
"""Fields of a recipe that `--help` lists."""


KINDS: dict[str, Callable[[Recipe, str], Recipe]] = {
    "--decoder": with_decoder,
    "--pixel-decoder": with_pixel_decoder,
    # imported when it is called, since it imports timm
    "--encoder": lambda *change: import_module("semask.models.encoders.kinds").with_encoder(*change),
    "--semantic": with_semantic,
    "--augment": with_augment,
}
"""Flags such as --decoder NAME, and the change of a recipe by each; read first: all other flags depend on them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: the recipe's fields, whose booleans are written true and false, and the run's options."""

    run: Annotated[RunOptions, arg(name="")] = dataclasses.field(default_factory=RunOptions)
    data: Annotated[DataRecipe, FlagConversionOff]
    model: Annotated[ModelRecipe, FlagConversionOff, AvoidSubcommands]
    loss: LossRecipe
    optim: OptimRecipe
    train: Annotated[TrainRecipe, FlagConversionOff]
    test: Annotated[TestRecipe, FlagConversionOff]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The flags of `semask train`."""

    auto: Annotated[bool, FlagConversionOff] = True
    """Recipes for data of one's own: choose scale, crop, steps and class weights from the data and the machine, where
    no flag does."""


class Task(NamedTuple):
    """A recipe, the run's options, and the fields that flags set; None leaves the recipe as it is."""

    recipe: Recipe
    options: RunOptions
    keep: frozenset[str] | None


def main(arguments: Sequence[str]) -> None:
    """Parse `RECIPE [flags]` and train."""
    train(*parse(arguments))


def train(recipe: Recipe, options: RunOptions | None = None, keep: Collection[str] | None = None) -> TrainResult:
    """Train by a recipe, draw curves.png and overview.png into its folder, and return the paths of its results."""
    from semask.training import run
    from semask.training.drawing import draw

    result = run.train(recipe, options, keep=keep)
    draw(result)
    return result


def parse(arguments: Sequence[str]) -> Task:
    """The recipe with the values of the flags, the run's options, and the fields that flags set.

    Raises:
        ValueError: there is no such recipe.
    """
    # the recipe and the kinds of its parts decide which flags there are
    name, flags = split_name(arguments, usage=USAGE, hint="`semask models` lists recipes.")
    if name is not None and name not in list_recipes() and Path(name).exists():
        command = f"semask train folder/semask-lite0-fpn --data.root {name}"
        raise ValueError(f"{name!r} holds data, and a recipe comes first: `{command}`; `semask models` lists recipes")
    recipe = Recipe(name="RECIPE") if name is None else get_recipe(name)
    recipe, flags = choose_kinds(recipe, flags)
    # a bare --resume means the run's own last checkpoint
    for place, (flag, following) in reversed([*enumerate(pairwise([*flags, "--"]))]):
        if flag == "--resume" and following.startswith("--"):
            flags.insert(place + 1, "latest")
    description = (
        f"Train by the recipe {recipe.name}: every field of the recipe is a flag.\n\nFive flags change several fields, "
        "others go beyond them: --encoder NAME (of timm, or mit_b0 … mit_b5), --decoder KIND, --pixel-decoder KIND, "
        "--semantic layers|probe|none, and --augment street|aerial|microscopy."
    )
    settings, recipe = parse_over(
        TrainSettings, recipe, flags, prog=f"semask train {recipe.name}", description=description, first=FIRST
    )
    # only recipes for any classes are fitted; published ones stay what they are
    given = {flag.removeprefix("--").partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")}
    recipe = with_length(recipe, settings.run, given)
    return Task(recipe, settings.run, frozenset(given) if settings.auto and recipe.data.classes_from_data else None)


def with_length(recipe: Recipe, options: RunOptions, given: Collection[str]) -> Recipe:
    """The recipe with the length of the run that is resumed, if one is, where no flag sets another."""
    checkpoint = resumed_checkpoint(folder_of(recipe, options), options)
    if checkpoint is None or not (record := checkpoint.with_name(RECORD)).is_file():
        return recipe
    values = read_record(record)["recipe"]
    for name in ("steps", "early_stop"):
        if values is not None and not {f"train.{name}", name} & {*given}:
            recipe = recipe.override({f"train.{name}": values.get("train", {}).get(name)})
    return recipe


def choose_kinds(recipe: Recipe, flags: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe with the kinds of its parts that flags name, and the other flags."""
    rest = [*flags]
    for flag, change in KINDS.items():
        name, rest = take(flag, rest)
        if name is not None:
            recipe = change(recipe, name)
    return recipe, rest
