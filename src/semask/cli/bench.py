"""`semask bench RECIPE…`: speed, memory and cost of recipes, beside each other and beside other libraries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from semask.benchmark.options import Options, check
from semask.cli.flags import check_record, parse
from semask.files import write_json
from semask.text import Table, console, pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from semask.benchmark.result import Result

ALIKE = ("run", "size", "precision", "mIoU", "machine", "torch")
"""Columns of reports that a line below the table replaces."""
SPARED = ("IQR", "p99", "p90", "in all", "of peak [%]", "multiply-adds [G]", "parameters [M]", "batch")
"""Columns that a narrow terminal omits, in this order; records hold them all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure the speed and the memory of recipes, on random images and with random weights.

    All models of one command take turns, run by run, so that the times of a round can be divided by each other even
    where a machine is faster in one minute than in the next. Where other processes left too few cores for the threads,
    the record and a line below the table report it. Figures of other machines, drivers or versions of torch cannot be
    compared. `semask report` makes tables and plots of the records.
    """

    recipes: Annotated[tuple[str, ...], Positional, arg(metavar="RECIPE")]
    """Names of recipes, or folders of checkpoints; ratios are to the first."""
    run: Annotated[Options, arg(name="")]
    out: Path | None = None
    """File for the record (.json)."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags, measure, print a table and write the record."""
    settings = parse(Settings, arguments, prog="semask bench")
    options, out = settings.run, settings.out
    # before torch is imported, which takes seconds
    check_record(out)
    check(settings.recipes, options)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from semask.benchmark.measure import measure
    from semask.benchmark.result import results_of

    screen, errors = console(), console(stderr=True)
    if options.compile:
        errors.print("compiling, in the first run of each: minutes for large models", style="dim")
    # drawn between runs alone: a thread that draws would take time from the measured work
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("Building", total=None)
        record = measure(
            settings.recipes,
            options,
            lambda title, runs: bar.update(task, description=title, total=runs, advance=1, refresh=True),
        )
    # the record before anything is printed, then table, conditions and remarks
    results = results_of(out or Path("-"), record)
    if out is not None:
        write_json(out, record)
    table, spared = fitting_table(results, screen)
    screen.print(table.rich())
    if spared:
        screen.print(f"the terminal is too narrow for {', '.join(spared)}; a record has all", style="dim")
    for line in conditions(record, results):
        screen.print(line, style="dim")
    if out is not None:
        screen.print(f"record in {out}")


def fitting_table(results: Sequence[Result], screen: Console) -> tuple[Table, list[str]]:
    """A table that fits into a terminal, and the omitted columns."""
    from rich.measure import Measurement

    from semask.benchmark.table import bench_table

    table, spared = bench_table(results, {}).without(*ALIKE), []
    # one column less until the table's natural width fits
    unlimited = screen.options.update(max_width=1000)
    for title in SPARED:
        if Measurement.get(screen, unlimited, table.rich()).maximum <= screen.width:
            break
        if title in table.columns:
            spared.append(title)
            table = table.without(title)
    return table, spared


def conditions(record: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Lines on the conditions of the measurement, and remarks on its certainty."""
    from semask.benchmark.table import caption, notes

    # all cases share their settings
    values, load = results[0].values, record["environment"]["load"]
    lines = [
        caption(results, []),
        f"{values['rounds']} rounds in turn · inside: {', '.join(values['inside'])} · load {load}",
    ]
    if (rate := values["images_per_second_of_a_worker"]) is not None:
        lines.append(f"{pluralize(values['workers'], 'worker')}, {rate:.2f} images/s each")
    if values["compile"]:
        first = ", ".join(f"{each.values['seconds_of_first_run']:.0f} s of {each.title}" for each in results)
        lines.append(f"first runs, which compile: {first}")
    if record["peak_rate"] is not None and values["share_of_peak"] is not None:
        rate = f"{record['peak_rate'] / 1e9:.1f}·10⁹ multiply-adds/s"
        lines.append(f"peak: {rate}, of product, linear layer and convolution the fastest here")
    return lines + notes(results)
