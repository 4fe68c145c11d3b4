"""`semask convert PUBLISHED RECIPE OUT`: the authors' weights as a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from semask.checkpoints.record import RECORD
from semask.commands.flags import parse
from semask.recipes import get


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and convert."""
    parse(convert, arguments, prog="semask convert")


def convert(
    published: Annotated[Path, Positional, arg(metavar="PUBLISHED")],
    recipe: Annotated[str, Positional, arg(metavar="RECIPE")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    *,
    num_classes: int | None = None,
    overwrite: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Read a published file and write a checkpoint that evaluate, predict and `semask.load` take.

    Args:
        published: The authors' file: PyTorch or safetensors, bare or wrapped. It is read without running its code. The
            variant.yml that Segmenter's authors put beside it is compared with the recipe.
        recipe: The recipe of its row in the paper, such as ade20k/semask-swin-t-fpn.
        out: Folder of the new checkpoint.
        num_classes: Keep all but the tensors that depend on the class count; those start fresh for this many classes.
        overwrite: Replace a checkpoint that is there already.
    """
    from rich.console import Console

    get(recipe)  # a mistyped name is told before a large file is read
    if (out / RECORD).exists() and not overwrite:
        raise ValueError(f"{str(out)!r} holds a checkpoint or run already; choose another folder, or say --overwrite")
    from semask.checkpoints import store
    from semask.checkpoints.convert import convert as read

    result = read(published, recipe, num_classes)
    store.save(out, result.model, result.recipe, result.classes)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{result.loaded} tensors of {published.name} fill {recipe}.")
    console.print(f"layout: {result.layout}.")
    if result.variant is not None:
        console.print(result.variant)
    if result.fresh:
        console.print(f"{len(result.fresh)} depend on the class count and start fresh: {', '.join(result.fresh)}.")
    console.print(f"checkpoint: {out}")
