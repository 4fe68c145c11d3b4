"""`semask bench RECIPE…`: speed, memory and cost of recipes, beside each other and beside other libraries."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from semask.benchmark.options import FEW_ROUNDS, Options, check
from semask.commands.flags import check_json, parse

if TYPE_CHECKING:
    from rich.table import Table

PROG = "semask bench"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure how fast recipes are and what memory they need, on random pictures and with random weights.

    All that is measured in one command takes turns, run by run, so that the times of a round can be divided by each
    other even on a machine that others use as well. Figures of other machines, drivers or versions of torch cannot be
    compared. `semask report` makes tables and plots of the records.
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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from semask.benchmark.measure import measure
    from semask.whole_file import write_json

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # Drawn between runs alone: a thread that draws would take time from what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("Building", total=None)

        def progress(title: str, runs: int) -> None:
            bar.update(task, description=title, total=runs, advance=1, refresh=True)

        record = measure(recipes, options, progress=progress)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table(record))
    for line in conditions(record):
        console.print(line, style="dim", highlight=False)
    if out is not None:
        write_json(out, record)
        console.print(f"record in {out}", highlight=False)
    return record


def table(record: Mapping[str, Any]) -> Table:
    """Return what was measured as a table, a row for every side."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("model", overflow="fold")
    for title in ("batch", "images/s", "median ms", "p90", "p99", "IQR", "time ÷ first's", "MiB", "in all"):
        grid.add_column(title, justify="right", no_wrap=True)
    for title in ("params M", "mult-adds G", "of peak"):
        grid.add_column(title, justify="right", no_wrap=True)
    for values in record["measured"]:
        seconds, ratio, memory = values["seconds"], values["time_to_first"], values["memory"]
        grid.add_row(
            values["title"],
            str(values["batch"]),
            f"{values['images_per_second']:.2f}",
            *(f"{1e3 * seconds[name]:.1f}" for name in ("median", "p90", "p99", "iqr")),
            f"{ratio['median']:.2f} [dim]({ratio['least']:.2f} … {ratio['greatest']:.2f})[/dim]",
            *(f"{memory[name] / 2**20:.0f}" for name in ("above", "total")),
            *(_scaled(values[name], unit) for name, unit in (("parameters", 1e6), ("multiply_adds", 1e9))),
            "" if values["share_of_peak"] is None else f"{100 * values['share_of_peak']:.1f} %",
        )
    return grid


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
        lines.append(f"{values['workers']} workers, {rate:.2f} images/s each")
    if record["matmul_peak"] is not None:
        lines.append(f"peak: {record['matmul_peak'] / 1e9:.1f}·10⁹ multiply-adds/s, of a large matrix product here")
    if values["rounds"] < FEW_ROUNDS:
        lines.append(f"fewer than {FEW_ROUNDS} rounds tell little of the 90th and 99th percentile")
    return lines


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.{1 if value >= unit else 3}f}"
