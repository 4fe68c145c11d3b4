"""`semask report RECORD…`: tables of evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from semask.commands.flags import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Make a table of evaluations: recipe, protocol, mIoU with its interval, the paper's figure, and the rest."""

    records: Annotated[tuple[Path, ...], Positional, arg(metavar="RECORD")]
    """Records that `semask evaluate` wrote (metrics.json), or the checkpoints' folders that hold them."""
    out: Path | None = None
    """File for the table: .md, .csv or .tex. None prints Markdown."""
    classes: bool = False
    """A row for every class, and a column for every record."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and make the table."""
    report(parse(Settings, arguments, prog="semask report"))


def report(settings: Settings) -> str:
    """Print or write the table and return it; a ValueError tells records that cannot be read, and a wrong suffix."""
    from semask.evaluation.record import read_record
    from semask.evaluation.report import FORMATS, class_table, tabulate
    from semask.whole_file import whole_file

    suffix = ".md" if settings.out is None else settings.out.suffix
    if suffix not in FORMATS:
        raise ValueError(f"a table is written as {', '.join(FORMATS)}, told by the suffix of --out; got {suffix!r}")
    if not settings.records:
        raise ValueError("there is nothing to tabulate; give records that `semask evaluate` wrote")
    records = [read_record(path) for path in settings.records]
    text = FORMATS[suffix](*(class_table(records) if settings.classes else tabulate(records)))
    if settings.out is None:
        print(text, end="")
        return text
    with whole_file(settings.out) as part:
        part.write_text(text, encoding="utf-8")
    print(f"{len(records)} records in {settings.out}")
    return text
