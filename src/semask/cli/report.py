"""`semask report RECORD…`: tables of evaluations or of measurements of speed, and a plot of the one by the other."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from semask.cli.flags import parse

if TYPE_CHECKING:
    from semask.benchmark.record import BenchRecord
    from semask.benchmark.report import Accuracy
    from semask.evaluation.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Make a table of evaluations: recipe, protocol, mIoU with its interval, the paper's figure, and the rest.

    With records of `semask bench` it is a table of speed and memory, in which evaluations of the same recipes give the
    accuracy, and --plot draws that against the speed.
    """

    records: Annotated[tuple[Path, ...], Positional, arg(metavar="RECORD")]
    """Records that `semask evaluate` wrote (metrics.json), or the checkpoints' folders that hold them; and such of
    `semask bench`."""
    out: Path | None = None
    """File for the table: .md, .csv or .tex. None prints Markdown."""
    classes: bool = False
    """A row for every class, and a column for every record; of evaluations alone."""
    plot: Path | None = None
    """File for a plot against images per second: .png, .svg or .pdf; of measurements of speed."""
    plot_by: Literal["miou", "parameters", "multiply-adds"] = "miou"
    """The other axis of the plot. mIoU is that of an evaluation given beside it, else the published one."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and make the table."""
    report(parse(Settings, arguments, prog="semask report"))


def report(settings: Settings) -> str:
    """Print or write the table and return it; a ValueError tells records that cannot be read, and a wrong suffix."""
    from semask.evaluation.report import COLUMNS, FORMATS, class_table, tabulate
    from semask.files import check_writable, whole_file

    suffix = ".md" if settings.out is None else settings.out.suffix
    if suffix not in FORMATS:
        raise ValueError(f"a table is written as {', '.join(FORMATS)}, told by the suffix of --out; got {suffix!r}")
    if not settings.records:
        raise ValueError("there is nothing to tabulate; give records that `semask evaluate` or `semask bench` wrote")
    for flag, path in (("--out", settings.out), ("--plot", settings.plot)):
        if path is not None:
            check_writable(path.parent, flag=flag)
            if path.is_dir():
                raise ValueError(f"{flag} names a file, and {str(path)!r} is a folder; give a name within it")
    evaluations, measurements = read(settings.records)
    remarks: list[str] = []
    if measurements:
        text, remarks = speed_table(settings, measurements, evaluations, suffix)
    elif settings.plot is not None:
        raise ValueError("--plot is of speed; give records that `semask bench` wrote, evaluations beside them")
    else:
        text = FORMATS[suffix](*(class_table(evaluations) if settings.classes else tabulate(evaluations, COLUMNS)))
    if settings.out is None:
        print(text, end="")
    else:
        with whole_file(settings.out) as part:
            part.write_text(text, encoding="utf-8")
        print(f"{len(evaluations) + len(measurements)} records in {settings.out}")
    for remark in remarks:
        print(remark, file=sys.stderr)
    return text


def read(paths: Sequence[Path]) -> tuple[list[Record], list[BenchRecord]]:
    """Return the evaluations and the measurements of speed in these files and folders, in their order."""
    from semask.benchmark.record import holds_bench, read_bench
    from semask.evaluation.record import read_record

    evaluations, measurements = [], []
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"there is no record {str(path)!r}; `semask evaluate` and `semask bench` write them by --out"
            )
        if holds_bench(path):
            measurements += read_bench(path)
        else:
            evaluations.append(read_record(path))
    return evaluations, measurements


def speed_table(
    settings: Settings, measurements: Sequence[BenchRecord], evaluations: Sequence[Record], suffix: str
) -> tuple[str, list[str]]:
    """Return the table of measurements and the remarks that it cannot hold, after drawing the plot."""
    from semask.benchmark.report import accuracies_of, bench_table, notes
    from semask.evaluation.report import FORMATS

    if settings.classes:
        raise ValueError("--classes is of evaluations; leave the records of `semask bench` out")
    if settings.plot is not None:
        draw(settings, measurements, accuracies_of(measurements, evaluations))
    text, remarks = FORMATS[suffix](*bench_table(measurements, evaluations)), notes(measurements)
    if suffix == ".md":
        return text + "".join(f"\n{remark}\n" for remark in remarks), []
    if suffix == ".tex":
        return "".join(f"% {remark}\n" for remark in remarks) + text, []
    return text, remarks


def draw(settings: Settings, measurements: Sequence[BenchRecord], accuracies: dict[str, Accuracy]) -> None:
    """Write the plot; a ValueError tells a wrong suffix, and measurements without the value that is asked for."""
    from semask.benchmark.plot import FORMATS, plot, points
    from semask.benchmark.report import circumstances, notes

    assert settings.plot is not None  # the caller asks
    if settings.plot.suffix not in FORMATS:
        raise ValueError(
            f"a plot is written as {', '.join(FORMATS)}, told by the suffix of --plot; got {settings.plot.suffix!r}"
        )
    chosen = points(measurements, settings.plot_by, accuracies)
    if not chosen:
        raise ValueError(
            f"no record says {settings.plot_by}, so there is nothing to plot; evaluate the recipes and give those "
            "records too, or say --plot-by parameters"
        )
    plot(settings.plot, chosen, settings.plot_by, caption=circumstances(measurements, notes(measurements)))
    if len(chosen) < len(measurements):
        left = [each.title for each in measurements if not points([each], settings.plot_by, accuracies)]
        told = f"{len(left)} of {len(measurements)} rows have no {settings.plot_by} and are not in the plot"
        print(f"{told}: {', '.join(dict.fromkeys(left))}", file=sys.stderr)
