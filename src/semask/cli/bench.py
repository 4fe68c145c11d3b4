"""`semask bench RECIPE…`: speed, memory and cost of recipes, beside each other and beside other libraries."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from semask.benchmark.options import FEW_ROUNDS, Options, check
from semask.benchmark.others import crowding
from semask.cli.flags import check_json, parse
from semask.files import check_writable, write_json
from semask.text import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PROG = "semask bench"
SPARED = ("IQR", "p99", "p90", "in all", "of peak", "mult-adds G", "params M", "batch")
"""Columns that a narrow terminal goes without, in this order; records hold them all."""
UNLIKE = 2.0
"""Times as many parameters, or as few: from there on two models are hardly of a kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure how fast recipes are and what memory they need, on random pictures and with random weights.

    All that is measured in one command takes turns, run by run, so that the times of a round can be divided by each
    other even where a machine is faster in one minute than in the next. Where other processes left no room for the
    threads that were measured, the record and a line below the table say so. Figures of other machines, drivers or
    versions of torch cannot be compared. `semask report` makes tables and plots of the records.
    """

    recipes: Annotated[tuple[str, ...], Positional, arg(metavar="RECIPE")]
    """Names of recipes, or folders of checkpoints; ratios are to the first."""
    run: Annotated[Options, arg(name="")]
    out: Path | None = None
    """File for the record (.json)."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and measure."""
    settings = parse(Settings, arguments, prog=PROG)
    bench(settings.recipes, settings.run, out=settings.out)


def bench(recipes: Sequence[str], options: Options, *, out: Path | None = None) -> dict[str, Any]:
    """Measure, print a table, write the record and return it as JSON values."""
    check_json(out)
    check(recipes, options)  # before torch is imported, which takes seconds
    if out is not None:
        check_writable(out.parent)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from semask.benchmark.measure import measure

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    if options.compile:
        Console(stderr=True).print("compiling, in the first run of each: minutes for large models", style="dim")
    # Drawn between runs alone: a thread that draws would take time from what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("Building", total=None)

        def progress(title: str, runs: int) -> None:
            bar.update(task, description=title, total=runs, advance=1, refresh=True)

        record = measure(recipes, options, progress=progress)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    grid, spared = fitting_table(record, console)
    console.print(grid)
    if spared:
        console.print(
            f"the terminal is too narrow for {', '.join(spared)}; a record has all", style="dim", highlight=False
        )
    for line in conditions(record):
        console.print(line, style="dim", highlight=False)
    if out is not None:
        write_json(out, record)
        console.print(f"record in {out}", highlight=False)
    return record


def fitting_table(record: Mapping[str, Any], console: Console) -> tuple[Table, list[str]]:
    """Return what was measured as a table that fits into a terminal, and the columns which that has no room for."""
    from rich.measure import Measurement

    spared: list[str] = []
    while True:
        grid = table(record, without=spared)
        shown = [column.header for column in grid.columns]
        left = [title for title in SPARED if title in shown]
        if not left or Measurement.get(console, console.options.update(max_width=1000), grid).maximum <= console.width:
            return grid, spared
        spared.append(left[0])


def table(record: Mapping[str, Any], *, without: Sequence[str] = ()) -> Table:
    """Return what was measured as a table, a row for every side; columns that nothing is known of are left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = [cells(values) for values in record["measured"]]
    shown = [title for title in rows[0] if title not in without and any(row[title] for row in rows)]
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in shown:
        if title == "model":
            grid.add_column(title, overflow="fold")
        else:
            grid.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*(row[title] for title in shown))
    return grid


def cells(values: Mapping[str, Any]) -> dict[str, str]:
    """Return one side's figures as text by the titles of their columns, in the order of these."""
    seconds, ratio, memory = values["seconds"], values["time_to_first"], values["memory"]
    return {
        "model": values["title"],
        "batch": str(values["batch"]),
        "images/s": f"{values['images_per_second']:.2f}",
        "median ms": f"{1e3 * seconds['median']:.1f}",
        "p90": f"{1e3 * seconds['p90']:.1f}",
        "p99": f"{1e3 * seconds['p99']:.1f}",
        "IQR": f"{1e3 * seconds['iqr']:.1f}",
        "time ÷ first's": f"{ratio['median']:.2f} [dim]({ratio['least']:.2f} … {ratio['greatest']:.2f})[/dim]",
        "MiB": f"{memory['above'] / 2**20:.0f}",
        "in all": f"{memory['total'] / 2**20:.0f}",
        "params M": _scaled(values["parameters"], 1e6),
        "mult-adds G": _scaled(values["multiply_adds"], 1e9),
        "of peak": "" if values["share_of_peak"] is None else f"{100 * values['share_of_peak']:.1f} %",
    }


def conditions(record: Mapping[str, Any]) -> list[str]:
    """Return lines on what was measured and where."""
    values, around = record["measured"][0], record["environment"]
    sizes = {"×".join(map(str, each["size"])) + " px" if each["size"] else "own sizes" for each in record["measured"]}
    flags = [name for name in ("compile", "step", "plain") if values.get(name)]
    flags += [f"stages {' '.join(map(str, values['recompute_stages']))} again"] if values["recompute_stages"] else []
    lines = [
        " · ".join([values["what"], " and ".join(sorted(sizes)), values["dtype"], *flags])
        + f" · {values['rounds']} rounds in turn · inside: {', '.join(values['inside'])}",
        f"{around['device']} ({around['processor']}), load {around['load']} · torch {around['packages']['torch']}",
    ]
    if (rate := values["images_per_second_of_a_worker"]) is not None:
        lines.append(f"{counted(values['workers'], 'worker')}, {rate:.2f} images/s each")
    if values["compile"]:
        first = ", ".join(f"{each['seconds_of_first_run']:.0f} s of {each['title']}" for each in record["measured"])
        lines.append(f"first runs, which compile: {first}")
    lines += _other_weights(record["measured"])
    if record["matmul_peak"] is not None and values["share_of_peak"] is not None:
        lines.append(f"peak: {record['matmul_peak'] / 1e9:.1f}·10⁹ multiply-adds/s, of a large matrix product here")
    if crowded := crowding(around, values):
        lines.append(crowded)
    if values["rounds"] < FEW_ROUNDS:
        lines.append(f"fewer than {FEW_ROUNDS} rounds tell little of the 90th and 99th percentile")
    return lines


def _other_weights(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what must be said of peers that are far larger or smaller than the recipe they stand beside."""
    ours = {each["recipe"]: each["parameters"] for each in measured if each["library"] == "semask"}
    told = []
    for each in measured:
        own, theirs = ours.get(each["recipe"]), each["parameters"]
        if own and theirs and not 1 / UNLIKE <= theirs / own <= UNLIKE:
            told.append(f"{each['title']} has {theirs / own:.2g} times the parameters of {each['recipe']}")
    return told


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.{1 if value >= unit else 3}f}"
