"""The page of a comparison: two evaluations of the same images, and their certain differences."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from semask.visualization.pages.evaluation import SCORES
from semask.visualization.pages.page import write_page
from semask.visualization.pages.record import Interval, Record, interval, number, rows, section


class Difference(NamedTuple):
    """A score of two runs and its paired difference, b less a, with the interval; `clear` if that leaves out 0."""

    name: str
    a: float | None
    b: float | None
    mean: float | None
    interval: Interval | None
    clear: bool


def write_comparison_page(path: Path, comparison: Record) -> None:
    """Write the page of a comparison as `semask compare` makes it.

    Raises:
        ValueError: the record lacks a section, or a value is no number.
    """
    runs = [section(comparison, name) for name in ("a", "b")]
    a, b = (section(run, "scores", optional=True) for run in runs)
    # means in the record's order, classes from the largest gain to the largest loss
    scores = [
        _difference(SCORES.get(key, key), {"a": a.get(key), "b": b.get(key), "difference": ends})
        for key, ends in section(comparison, "difference").items()
    ]
    classes = [_difference(str(row.get("name", "")), row) for row in rows(comparison, "classes")]
    classes.sort(key=lambda row: -2.0 if row.mean is None else row.mean, reverse=True)
    # differences beyond chance
    clear = [row.mean for row in classes if row.clear and row.mean is not None]
    # the chart reaches the largest end, at least one point
    ends = [abs(end) for row in classes for end in (row.mean, *(row.interval or ())) if end is not None]
    write_page(
        path,
        "comparison.html",
        runs=[{"recipe": str(run.get("recipe", "")), "path": str(run.get("path", ""))} for run in runs],
        images=number(comparison, "images"),
        resamples=number(comparison, "resamples"),
        scores=scores,
        classes=classes,
        reach=max([0.01, *ends]),
        better=sum(mean > 0 for mean in clear),
        worse=sum(mean < 0 for mean in clear),
    )


def _difference(name: str, row: Record) -> Difference:
    """Read [mean, low, high]; null, or a list of nulls, is undefined."""
    found = row.get("difference")
    mean, *ends = found if isinstance(found, list | tuple) and len(found) == 3 else (None, None, None)
    value, bounds = number({"difference": mean}, "difference"), interval(ends)
    clear = bounds is not None and (bounds[0] > 0 or bounds[1] < 0)
    return Difference(name, number(row, "a"), number(row, "b"), value, bounds, clear)
