"""`semask models`: all recipes with their size and cost, beside the papers' figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, NamedTuple

from tyro.conf import FlagCreatePairsOff, arg

from semask.cli.flags import parse
from semask.recipes import Published, get_recipe, list_recipes
from semask.recipes.catalogue import MEASURED, Entry, Measured, catalogue
from semask.text import Table, console

CAPTION = (
    "crop in pixels · parameters in millions · 10⁹ multiply-adds of one crop, as the papers count them\n"
    "in brackets and mIoU, in percent: as published, one scale and several"
)


class Row(NamedTuple):
    """One recipe: crop (height, width) [px], cost, the paper's figures and ours."""

    name: str
    crop: tuple[int, int]
    cost: Entry
    published: Published
    measured: Measured | None = None


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and list."""
    parse(models, arguments, prog="semask models")


def models(
    *,
    words: Annotated[str, arg(name="filter")] = "",
    as_json: Annotated[bool, arg(name="json"), FlagCreatePairsOff] = False,
) -> None:
    """List recipes: parameters, multiply-adds in the papers' convention at the recipe's crop, published figures, mIoU.

    Args:
        words: Only recipes whose names hold all of these words, such as "cityscapes semask".
        as_json: Print JSON for programs instead of a table.
    """
    chosen = [name for name in list_recipes() if all(word in name for word in words.split())]
    if not chosen:
        raise ValueError(f"no recipe's name holds {words!r}; `semask models` lists them all")
    rows = rows_of(chosen)
    # JSON for programs, a table for people
    if as_json:
        print(json.dumps([_record(row) for row in rows], indent=2))
    else:
        console().print(table(rows).rich())


def rows_of(chosen: Sequence[str]) -> list[Row]:
    """The rows of these recipes from the catalogue."""
    known = catalogue()
    return [
        Row(recipe.name, recipe.data.crop, known[recipe.name], recipe.published, MEASURED.get(recipe.name))
        for recipe in map(get_recipe, chosen)
    ]


def table(rows: Sequence[Row]) -> Table:
    """Table of recipes, a group per data set, published figures in brackets."""
    lines: list[tuple[str, ...]] = []
    for _, group in groupby(rows, key=dataset_of):
        for row in group:
            (height, width), published = row.crop, row.published
            parameters, multiply_adds = row.cost.parameters / 1e6, row.cost.multiply_adds / 1e9
            lines.append(
                (
                    row.name,
                    # squares as the papers write them
                    f"{height}²" if height == width else f"{height}×{width}",
                    f"{parameters:.1f}" + ("" if published.parameters is None else f" ({published.parameters:.0f})"),
                    f"{multiply_adds:.1f}" + ("" if published.flops is None else f" ({published.flops:.0f})"),
                    *("" if miou is None else f"{miou:.2f}" for miou in (published.miou, published.miou_ms)),
                )
            )
        lines.append(())
    return Table(("recipe", "crop", "params", "mult-adds", "mIoU", "multi"), lines, caption=CAPTION)


def dataset_of(row: Row) -> str:
    """The data set of a recipe."""
    return row.name.partition("/")[0]


def _record(row: Row) -> dict[str, object]:
    published = row.published
    return {
        "name": row.name,
        "crop": list(row.crop),
        "parameters": row.cost.parameters,
        "multiply_adds": row.cost.multiply_adds,
        "all_multiply_adds": row.cost.all_multiply_adds,
        "weights_licence": row.cost.licence,
        "published": {
            "parameters_m": published.parameters,
            "multiply_adds_g": published.flops,
            "all_multiply_adds_g": published.all_flops,
            "miou": published.miou,
            "miou_ms": published.miou_ms,
            "source": published.source,
        },
        "measured": None if row.measured is None else row.measured._asdict(),
    }
