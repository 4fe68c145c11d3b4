"""The page of a comparison: two runs on the same pictures, and which differences are more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from semask.visualization.pages.evaluation import SCORES
from semask.visualization.pages.page import write_page
from semask.visualization.pages.record import Interval, Record, interval, number, optional, rows, section


class Difference(NamedTuple):
    """A score of two runs and its paired difference, b less a, with the interval; `clear` of 0 or not.

    middle, low, high: places on an axis from 0 to 1 whose middle is no difference.
    """

    name: str
    a: float | None
    b: float | None
    mean: float | None
    interval: Interval | None
    clear: bool
    middle: float | None = None
    low: float | None = None
    high: float | None = None


def write_comparison_page(path: Path, comparison: Record) -> None:
    """Write the page of a comparison as `semask compare` makes it.

    Raises:
        ValueError: the record lacks a section, or a number is none.
    """
    runs = [section(comparison, name) for name in ("a", "b")]
    means = section(comparison, "difference")
    a, b = (optional(run, "scores") for run in runs)
    scores = [
        _difference(SCORES.get(key, key), {"a": a.get(key), "b": b.get(key), "difference": ends})
        for key, ends in means.items()
    ]
    classes = [_difference(str(row.get("name", "")), row) for row in rows(comparison, "classes")]
    classes.sort(key=lambda row: -2.0 if row.mean is None else row.mean, reverse=True)
    reach = _reach(classes)
    clear = [row for row in classes if row.clear and row.mean is not None]
    write_page(
        path,
        "comparison.html",
        runs=[{"recipe": str(run.get("recipe", "")), "path": str(run.get("path", ""))} for run in runs],
        images=number(comparison, "images"),
        resamples=number(comparison, "resamples"),
        scores=scores,
        classes=_placed(classes, reach),
        reach=reach,
        better=sum((row.mean or 0) > 0 for row in clear),
        worse=sum((row.mean or 0) < 0 for row in clear),
    )


def _difference(name: str, row: Record) -> Difference:
    """Read [mean, low, high]; null, or a list of nulls, is undefined."""
    told = row.get("difference")
    mean, *ends = told if isinstance(told, list | tuple) and len(told) == 3 else (None, None, None)
    value, bounds = number({"difference": mean}, "difference"), interval(ends)
    clear = bounds is not None and (bounds.low > 0 or bounds.high < 0)
    return Difference(name, number(row, "a"), number(row, "b"), value, bounds, clear)


def _reach(rows_: Sequence[Difference]) -> float:
    """Return the largest difference that is to be drawn, at least a percentage point."""
    ends: list[float] = [abs(end) for row in rows_ for end in (row.mean, *(row.interval or ())) if end is not None]
    return max([0.01, *ends])


def _placed(rows_: Sequence[Difference], reach: float) -> list[Difference]:
    def place(value: float) -> float:
        return 0.5 + 0.5 * value / reach

    return [
        row._replace(
            middle=None if row.mean is None else place(row.mean),
            low=None if row.interval is None else place(row.interval.low),
            high=None if row.interval is None else place(row.interval.high),
        )
        for row in rows_
    ]
