"""`semask compare A B`: the paired difference of two evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from semask.cli.flags import check_record, parse
from semask.files import write_json
from semask.text import Table, console, percent, pluralize

MEANS = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc", "fwiou": "fwIoU", "dice": "dice"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare two evaluations of the same images, each at its model's scale: B - A with its 95 % interval, by class.

    The interval covers the choice of images: both evaluations share each resample, so that images hard for both cancel
    out. It does not cover other seeds of a training; `semask ablate` does.
    """

    a: Annotated[Path, Positional, arg(metavar="A")]
    """A record that `semask evaluate` wrote (metrics.json), or the checkpoint's folder that holds it."""
    b: Annotated[Path, Positional, arg(metavar="B")]
    """Another one."""
    out: Path | None = None
    """File for the comparison, .json; a page (.html) goes beside it. None only prints."""
    resamples: int = 1000
    """Number of resamples of the images."""
    seed: int = 0
    """Random seed of the resamples."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and compare."""
    compare(parse(Settings, arguments, prog="semask compare"))


def compare(settings: Settings) -> dict[str, Any]:
    """Write the comparison if there is an --out, print it, and return it."""
    from semask.evaluation import comparison
    from semask.evaluation.record import read_record
    from semask.visualization.pages.comparison import write_comparison_page

    # B - A by a paired bootstrap over images
    check_record(settings.out)
    records = read_record(settings.a), read_record(settings.b)
    found = comparison.compare(*records, resamples=settings.resamples, seed=settings.seed)
    if settings.out is not None:
        write_json(settings.out, found)
        write_comparison_page(settings.out.with_suffix(".html"), found)
    out = console()
    out.print(f"A  {found['a']['recipe']}  {found['a']['path']}")
    out.print(f"B  {found['b']['recipe']}  {found['b']['path']}")
    for name, (one, other) in found["input_scale"].items():
        out.print(f"input scale belongs to the model: {name} is {one} in A and {other} in B")
    out.print(table(found).rich())
    out.print(verdict(found))
    if settings.out is not None:
        out.print(f"written to {settings.out} and, as a page, {settings.out.with_suffix('.html')}")
    return found


def table(found: dict[str, Any]) -> Table:
    """Table of means and classes with A, B, their difference and its interval in points; * marks one without 0."""

    def row(title: str, a: float | None, b: float | None, ends: Sequence[float] | None) -> tuple[str, ...]:
        if ends is None:
            return title, percent(a), percent(b), "–", "–"
        # points of percent
        value, low, high = (100 * end for end in ends)
        star = " *" if low > 0 or high < 0 else ""
        return title, percent(a), percent(b), f"{value:+.2f}{star}", f"{low:+.2f} … {high:+.2f}"

    a, b = (found[run]["scores"] for run in "ab")
    means = [row(title, a.get(name), b.get(name), found["difference"][name]) for name, title in MEANS.items()]
    classes = [row(each["name"], each["a"], each["b"], each["difference"]) for each in found["classes"]]
    return Table(("score", "A %", "B %", "B - A", "95 % interval"), [*means, (), *classes])


def verdict(found: dict[str, Any]) -> str:
    """Sentence on the difference in mIoU and its significance over these images."""
    images = pluralize(found["images"], "image")
    if found["difference"]["miou"] is None:
        return f"the difference in mIoU is undefined over {images}"
    value, low, high = found["difference"]["miou"]
    # significant at 95 % where the interval leaves out 0
    if low <= 0 <= high:
        return f"no difference in mIoU is certain: the interval over {images} holds 0"
    better = "B" if value > 0 else "A"
    return f"{better} is better by {abs(100 * value):.2f} points of mIoU; the interval over {images} leaves out 0"
