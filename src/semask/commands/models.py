"""`semask models`: all recipes with their size and cost, beside what the papers print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from semask.commands.flags import parse
from semask.recipes import Published, Recipe, get, names

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = (
    "crop in pixels · parameters in millions · 10⁹ multiply-adds of one crop, as the papers count them\n"
    "in brackets and mIoU, in percent: as published, one scale and several"
)


class Row(NamedTuple):
    """One recipe: crop (height, width) [px], parameters, multiply-adds of one crop, and the paper's figures."""

    name: str
    crop: tuple[int, int]
    parameters: int
    multiply_adds: int
    published: Published


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and list."""
    parse(models, arguments, prog="semask models")


def models(
    *,
    words: Annotated[str, tyro.conf.arg(name="filter")] = "",
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List recipes: parameters, multiply-adds in the papers' convention at the recipe's crop, published figures, mIoU.

    Args:
        words: Only recipes whose names hold all of these words, such as "cityscapes semask".
        as_json: Print JSON for programs instead of a table.
    """
    chosen = [name for name in names() if all(word in name for word in words.split())]
    if not chosen:
        raise ValueError(f"no recipe's name holds {words!r}; `semask models` lists them all")
    rows = measure(chosen)
    if as_json:
        print(json.dumps([_record(row) for row in rows], indent=2))
    else:
        from rich.console import Console

        Console().print(table(rows))


def measure(chosen: Sequence[str]) -> list[Row]:
    """Build each recipe without memory and count what it costs, under a progress bar on the error stream."""
    from rich.console import Console
    from rich.progress import track

    watched = track(chosen, description="Counting", console=Console(stderr=True), transient=True)
    return [measure_recipe(get(name)) for name in watched]


def measure_recipe(recipe: Recipe) -> Row:
    """Build a recipe without memory and count what it costs."""
    from semask.build import build_weightless
    from semask.complexity import multiply_adds, parameters

    model = build_weightless(recipe)
    cost = multiply_adds(model, *recipe.data.crop)
    return Row(recipe.name, recipe.data.crop, parameters(model), cost, recipe.published)


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table, one section per data set, published figures in brackets."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=CAPTION, caption_justify="left")
    grid.add_column("recipe", no_wrap=True)
    for title in ("crop", "params", "mult-adds", "mIoU", "multi"):
        grid.add_column(title, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        published = row.published
        grid.add_row(
            row.name,
            f"{row.crop[0]}²" if row.crop[0] == row.crop[1] else f"{row.crop[0]}×{row.crop[1]}",
            f"{row.parameters / 1e6:.1f}[dim]{_bracket(published.parameters)}[/dim]",
            f"{row.multiply_adds / 1e9:.1f}[dim]{_bracket(published.flops)}[/dim]",
            _score(published.miou),
            _score(published.miou_ms),
            end_section=following is not None and _dataset(following.name) != _dataset(row.name),
        )
    return grid


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, published figures in brackets; README.md holds the published recipes."""
    lines = ["| recipe | crop | parameters, M | multiply-adds, G | mIoU | multi-scale |", "|---|---|---|---|---|---|"]
    for row in rows:
        published = row.published
        cells = (
            f"`{row.name}`",
            f"{row.crop[0]}×{row.crop[1]}",
            f"{row.parameters / 1e6:.1f}{_bracket(published.parameters)}",
            f"{row.multiply_adds / 1e9:.1f}{_bracket(published.flops)}",
            _score(published.miou),
            _score(published.miou_ms),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _record(row: Row) -> dict[str, object]:
    published = row.published
    return {
        "name": row.name,
        "crop": list(row.crop),
        "parameters": row.parameters,
        "multiply_adds": row.multiply_adds,
        "published": {
            "parameters_m": published.parameters,
            "multiply_adds_g": published.flops,
            "miou": published.miou,
            "miou_ms": published.miou_ms,
            "source": published.source,
        },
    }


def _dataset(name: str) -> str:
    return name.partition("/")[0]


def _bracket(value: float | None) -> str:
    return "" if value is None else f" ({value:.0f})"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
