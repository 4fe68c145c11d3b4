"""`semask report RECORD…`: tables of evaluations or of measurements of speed, and a plot of both."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from semask.cli.flags import parse
from semask.files import check_writable, write_text
from semask.text import FORMATS, pluralize

if TYPE_CHECKING:
    from semask.benchmark.result import Result
    from semask.evaluation.record import Record

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Make a table of evaluations: recipe, protocol, mIoU with its interval, the paper's figure, and the rest.

    With records of `semask bench` it is a table of speed and memory, in which evaluations of the same recipes give the
    accuracy, and --plot draws that against the speed.
    """

    records: Annotated[tuple[Path, ...], Positional, arg(metavar="RECORD")]
    """Records of `semask evaluate` (metrics.json), or checkpoints' folders that hold them; and of `semask bench`.
    Folders without a record are skipped with a warning."""
    out: Path | None = None
    """File for the table: .md, .csv or .tex. None prints Markdown."""
    classes: bool = False
    """Write a row for every class, and a column for every record; for evaluations alone."""
    plot: Path | None = None
    """File for a plot against images per second: .png, .svg or .pdf; for measurements of speed."""
    plot_by: Literal["miou", "parameters", "multiply-adds"] = "miou"
    """The other axis of the plot. mIoU is that of an evaluation given beside it, else the published one."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and make the table."""
    report(parse(Settings, arguments, prog="semask report"))


def report(settings: Settings) -> str:
    """Print or write the table and return it.

    Raises:
        ValueError: a record cannot be read, a format cannot be written, or flags contradict.
    """
    from semask.evaluation.report import class_table, evaluation_table

    # all flags before any record is read
    suffix = ".md" if settings.out is None else settings.out.suffix
    if suffix not in FORMATS:
        raise ValueError(f"--out takes a file that ends in {', '.join(FORMATS)}; got {suffix!r}")
    if not settings.records:
        raise ValueError("there is nothing to tabulate; give records that `semask evaluate` or `semask bench` wrote")
    for flag, path in (("--out", settings.out), ("--plot", settings.plot)):
        if path is not None:
            check_writable(path.parent, flag=flag)
            if path.is_dir():
                raise ValueError(f"{flag} takes a file, and {str(path)!r} is a folder; give a name within it")
    evaluations, results = read(settings.records)
    notes: list[str] = []
    # records of speed make a table of speed, in which evaluations give the accuracy
    if results:
        if settings.classes:
            raise ValueError("--classes is for evaluations; leave out the records of `semask bench`")
        text, notes = speed_table(settings, results, evaluations, suffix)
    elif settings.plot is not None:
        raise ValueError("--plot is for speed; give records that `semask bench` wrote, with or without evaluations")
    else:
        text = FORMATS[suffix]((class_table if settings.classes else evaluation_table)(evaluations))
    if settings.out is None:
        print(text, end="")
    else:
        write_text(settings.out, text)
        print(f"{pluralize(len(evaluations) + len(results), 'record')} in {settings.out}")
    # notes that the format of the table cannot hold
    for note in notes:
        print(note, file=sys.stderr)
    return text


def read(paths: Sequence[Path]) -> tuple[list[Record], list[Result]]:
    """The evaluations and the measurements of speed in these files and folders, in their order.

    Folders without a record are skipped with a warning: `runs/*/best` names checkpoints that are not yet evaluated.

    Raises:
        ValueError: a file is missing or damaged, or no folder holds a record.
    """
    from semask.benchmark.result import is_bench, read_bench
    from semask.evaluation.record import NAME, read_record

    # both kinds are JSON; records of speed name their kind
    evaluations, results = [], []
    skipped = [path for path in paths if path.is_dir() and not (path / NAME).is_file()]
    if len(skipped) == len(paths):
        raise ValueError(
            f"none of {pluralize(len(paths), 'folder')} holds a record {NAME}, such as {str(paths[0])!r}; write them "
            "with `semask evaluate CHECKPOINT`"
        )
    if skipped:
        names = ", ".join(map(str, skipped))
        left = f"skipped {len(skipped)} of {pluralize(len(paths), 'path')}, folders without a record: {names}"
        logger.warning("%s; `semask evaluate CHECKPOINT` writes one", left)
    for path in (each for each in paths if each not in skipped):
        if not path.exists():
            raise ValueError(
                f"there is no record {str(path)!r}; `semask evaluate` and `semask bench` write them (--out)"
            )
        if is_bench(path):
            results += read_bench(path)
        else:
            evaluations.append(read_record(path))
    return evaluations, results


def speed_table(
    settings: Settings, results: Sequence[Result], evaluations: Sequence[Record], suffix: str
) -> tuple[str, list[str]]:
    """The table of measurements, and the notes that its format cannot hold; draw the plot first."""
    from semask.benchmark.plot import PLOT_FORMATS, plot, points
    from semask.benchmark.table import accuracies_of, bench_table, caption, notes

    accuracies, remarks, by = accuracies_of(results, evaluations), notes(results), settings.plot_by
    # the plot, and a note on rows without a value for it
    if settings.plot is not None:
        if settings.plot.suffix not in PLOT_FORMATS:
            raise ValueError(
                f"--plot takes a file that ends in {', '.join(PLOT_FORMATS)}; got {settings.plot.suffix!r}"
            )
        shown = points(results, by, accuracies)
        if not shown:
            raise ValueError(
                f"no record has {by}, so there is nothing to plot; evaluate the recipes and give those records too, or "
                "use --plot-by parameters"
            )
        plot(settings.plot, shown, by, caption=caption(results, remarks))
        if left := [each.title for each in results if not points([each], by, accuracies)]:
            names = ", ".join(dict.fromkeys(left))
            print(f"{len(left)} of {len(results)} rows have no {by} and are not in the plot: {names}", file=sys.stderr)
    text = FORMATS[suffix](bench_table(results, accuracies))
    # remarks inside the file where its format has room for them
    if suffix == ".md":
        return text + "".join(f"\n{remark}\n" for remark in remarks), []
    if suffix == ".tex":
        return "".join(f"% {remark}\n" for remark in remarks) + text, []
    return text, remarks
