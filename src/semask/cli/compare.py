"""`semask compare A B`: the paired difference of two evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from semask.cli.flags import check_json, parse
from semask.files import check_writable
from semask.text import counted, percent

if TYPE_CHECKING:
    from rich.table import Table

MEANS = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc", "fwiou": "fwIoU", "dice": "dice"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare two evaluations of the same images by the same protocol: B - A with its 95 % interval, and every class.

    The interval is of the images: both evaluations share each resample of them, so that what is hard for both cancels
    out. It says nothing of other seeds of a training; `semask ablate` does.
    """

    a: Annotated[Path, Positional, arg(metavar="A")]
    """A record that `semask evaluate` wrote (metrics.json), or the checkpoint's folder that holds it."""
    b: Annotated[Path, Positional, arg(metavar="B")]
    """Another one."""
    out: Path | None = None
    """File for the comparison, .json; a page (.html) goes beside it. None only prints."""
    resamples: int = 1000
    """Of the images."""
    seed: int = 0
    """Of the resamples."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and compare."""
    compare(parse(Settings, arguments, prog="semask compare"))


def compare(settings: Settings) -> dict[str, Any]:
    """Print the comparison, write it where that is wanted, and return it."""
    from rich.console import Console

    from semask.evaluation import comparison
    from semask.evaluation.record import read_record
    from semask.files import write_json
    from semask.visualization.pages.comparison import write_comparison_page

    check_json(settings.out)
    if settings.out is not None:
        check_writable(settings.out.parent)
    records = read_record(settings.a), read_record(settings.b)
    found = comparison.compare(*records, resamples=settings.resamples, seed=settings.seed)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)  # names are told as they are
    console.print(f"A  {found['a']['recipe']}  {found['a']['path']}")
    console.print(f"B  {found['b']['recipe']}  {found['b']['path']}")
    console.print(table(found))
    console.print(verdict(found))
    if settings.out is not None:
        write_json(settings.out, found)
        write_comparison_page(settings.out.with_suffix(".html"), found)
        console.print(f"written to {settings.out} and, as a page, {settings.out.with_suffix('.html')}")
    return found


def table(found: dict[str, Any]) -> Table:
    """Return means and classes with A, B, the difference and its interval in points; * is an interval without 0."""
    from rich.table import Table

    grid = Table()
    grid.add_column("score", no_wrap=True)
    for title in ("A %", "B %", "B - A", "95 % interval"):
        grid.add_column(title, justify="right")
    scores = [found[run]["scores"] for run in "ab"]
    for name, title in MEANS.items():
        grid.add_row(title, *(percent(score.get(name)) for score in scores), *_difference(found["difference"][name]))
    grid.add_section()
    for row in found["classes"]:
        grid.add_row(row["name"], percent(row["a"]), percent(row["b"]), *_difference(row["difference"]))
    return grid


def verdict(found: dict[str, Any]) -> str:
    """Return in a sentence whether the mIoU differs by more than these images could by chance."""
    ends = found["difference"]["miou"]
    images = counted(found["images"], "image")
    if ends is None:
        return f"the difference in mIoU is undefined over {images}"
    value, low, high = ends
    if low > 0 or high < 0:
        better = "B" if value > 0 else "A"
        return f"{better} is better by {abs(100 * value):.2f} points of mIoU; the interval over {images} leaves out 0"
    return f"no difference in mIoU can be told: the interval over {images} holds 0"


def _difference(ends: Sequence[float] | None) -> tuple[str, str]:
    if ends is None:
        return "–", "–"
    value, low, high = (100 * end for end in ends)
    star = " *" if low > 0 or high < 0 else ""
    return f"{value:+.2f}{star}", f"{low:+.2f} … {high:+.2f}"
