"""`semask models`: all recipes with their size and cost, beside what the papers print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from semask.cli.flags import parse
from semask.recipes import Published, get, names
from semask.recipes.catalogue import MEASURED, Entry, Measured, catalogue

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = (
    "crop in pixels · parameters in millions · 10⁹ multiply-adds of one crop, as the papers count them\n"
    "in brackets and mIoU, in percent: as published, one scale and several"
)
PAGE = """# Models

Every recipe: `semask train NAME` trains it, `semask models` lists them, `semask convert FILE NAME OUT` reads published
weights where there are some. Made by `make models`; tests keep it in step with the code.

Parameters are in millions, auxiliary heads included; multiply-adds are 10⁹ for one image of the crop's size, without
what only training needs. The papers count convolutions, linear layers, norms and ReLUs; *all* are all matrix products
and convolutions, attention's included, as PyTorch's `FlopCounterMode` counts them. In brackets: as published. mIoU in
percent, one scale / several scales and flips, as published by the source that is named. *Weights*: the licence of the
pretrained encoder that the recipe starts from. *Ours*: our own training by the recipe as it stands, see
[the log](log.md). We have trained no row on ADE20K, Cityscapes, Pascal Context, COCO-Stuff or VOC: that takes
accelerators.
"""
DATASETS = {
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "pascal-context": "Pascal Context",
    "pascal-context-59": "Pascal Context without background",
    "coco-stuff10k": "COCO-Stuff 10k",
    "coco-stuff164k": "COCO-Stuff 164k",
    "voc": "Pascal VOC 2012",
    "camvid": "CamVid",
    "scenes": "Drawn scenes",
    "folder": "Your own folder (the class count follows from your data; costs are those of two classes)",
}
"""Titles of the page's sections."""


class Row(NamedTuple):
    """One recipe: crop (height, width) [px], what it costs, the paper's figures and ours."""

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
    rows = rows_of(chosen)
    if as_json:
        print(json.dumps([_record(row) for row in rows], indent=2))
    else:
        from rich.console import Console

        # A pipe has no width of its own, and lines cut at 80 columns are of no use to `grep`.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(table(rows))


def rows_of(chosen: Sequence[str]) -> list[Row]:
    """Return the rows of these recipes from the catalogue."""
    known = catalogue()
    return [
        Row(recipe.name, recipe.data.crop, known[recipe.name], recipe.published, MEASURED.get(recipe.name))
        for recipe in map(get, chosen)
    ]


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
            f"{row.cost.parameters / 1e6:.1f}[dim]{_bracket(published.parameters, digits=0)}[/dim]",
            f"{row.cost.multiply_adds / 1e9:.1f}[dim]{_bracket(published.flops, digits=0)}[/dim]",
            _score(published.miou),
            _score(published.miou_ms),
            end_section=following is not None and _dataset(following.name) != _dataset(row.name),
        )
    return grid


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a short Markdown table, published figures in brackets, for README.md."""
    lines = ["| recipe | crop | parameters, M | multiply-adds, G | mIoU | multi-scale |", "|---|---|---|---|---|---|"]
    for row in rows:
        published = row.published
        cells = (*_costs(row)[:-1], _score(published.miou), _score(published.miou_ms))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(rows: Sequence[Row]) -> str:
    """Return docs/models.md: all rows with everything that is known of them, one section per data set."""
    parts = [PAGE]
    for dataset, group in groupby(rows, key=lambda row: _dataset(row.name)):
        lines = [
            f"## {DATASETS[dataset]}",
            "",
            "| recipe | crop | parameters | multiply-adds | all | mIoU | source | weights | ours |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in group:
            known = row.published
            scores = [_score(value) or "–" for value in (known.miou, known.miou_ms)]
            told = " / ".join(scores) if known.miou or known.miou_ms else ""
            ours = "" if row.measured is None else f"{row.measured.miou:.2f} ({row.measured.how})"
            cells = (*_costs(row), told, known.source, row.cost.licence or "none", ours)
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _costs(row: Row) -> tuple[str, ...]:
    return (
        f"`{row.name}`",
        f"{row.crop[0]}×{row.crop[1]}",
        f"{row.cost.parameters / 1e6:.1f}{_bracket(row.published.parameters)}",
        f"{row.cost.multiply_adds / 1e9:.1f}{_bracket(row.published.flops)}",
        f"{row.cost.all_multiply_adds / 1e9:.1f}{_bracket(row.published.all_flops)}",
    )


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


def _dataset(name: str) -> str:
    return name.partition("/")[0]


def _bracket(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return ""
    return f" ({value:g})" if digits is None else f" ({value:.{digits}f})"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
