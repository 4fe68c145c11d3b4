"""`semask train RECIPE`: train a model by a recipe, whose every field is a flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from semask.cli.flags import parse as parse_flags
from semask.recipes import DataRecipe, LossRecipe, ModelRecipe, OptimRecipe, Recipe, TestRecipe, TrainRecipe, get
from semask.training.options import RunOptions

if TYPE_CHECKING:
    from semask.training.run import TrainResult

NAME = "semask train RECIPE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: the recipe's fields and the run's options. Yes and no are written true and false in recipe fields."""

    run: Annotated[RunOptions, tyro.conf.arg(name="")]
    data: Annotated[DataRecipe, tyro.conf.FlagConversionOff]
    model: Annotated[ModelRecipe, tyro.conf.FlagConversionOff]
    loss: LossRecipe
    optim: OptimRecipe
    train: Annotated[TrainRecipe, tyro.conf.FlagConversionOff]
    test: Annotated[TestRecipe, tyro.conf.FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `RECIPE [flags]` and train; a ValueError names the nearest recipes."""
    recipe, options = parse(arguments)
    train(recipe, options)


def train(recipe: Recipe, options: RunOptions | None = None) -> TrainResult:
    """Train by a recipe and return where the results are."""
    from semask.training import run

    return run.train(recipe, options)


def parse(arguments: Sequence[str]) -> tuple[Recipe, RunOptions]:
    """Return the recipe with the flags put in, and the run's options; --help and bad flags leave by SystemExit."""
    asks_help = not arguments or arguments[0] in {"-h", "--help"}
    if not asks_help and arguments[0].startswith("-"):
        raise ValueError(
            f"the recipe comes first: {NAME} [flags]; got {arguments[0]!r}. `semask models` lists recipes."
        )
    recipe = Recipe(name="RECIPE") if asks_help else get(arguments[0])
    settings = parse_flags(
        Settings,
        ["--help"] if asks_help else _complete(arguments[1:]),
        prog=f"semask train {recipe.name}",
        description=f"Train by the recipe {recipe.name}: every field of the recipe is a flag.",
        default=Settings(run=RunOptions(), **sections(recipe)),
    )
    return dataclasses.replace(recipe, **sections(settings)), settings.run


def sections(source: Recipe | Settings) -> dict[str, Any]:
    """Return the parts of a recipe that are flags by name, of the recipe or of settings parsed for it."""
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(Settings) if field.name != "run"}


def _complete(flags: Sequence[str]) -> list[str]:
    """Give a bare --resume its value."""
    completed: list[str] = []
    for flag, following in pairwise([*flags, "--"]):
        bare = flag == "--resume" and following.startswith("--")
        completed += [flag, "latest"] if bare else [flag]
    return completed
