"""The page of an evaluation: scores with their intervals, classes, confusion, reliability, sizes, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semask.data.classes import Classes, Colour
from semask.visualization.pages.confusion import confusion_view
from semask.visualization.pages.gallery import GalleryPicture, exhibits
from semask.visualization.pages.page import write_page
from semask.visualization.pages.plot import BOTTOM, LEFT, RIGHT, TOP, Plot, axis
from semask.visualization.pages.record import Interval, Record, flattened, interval, number, optional, rows, section

SCORES = {
    "miou": "mIoU",
    "macc": "mean accuracy",
    "aacc": "pixel accuracy",
    "fwiou": "frequency-weighted IoU",
    "dice": "mean dice",
    "boundary_iou": "boundary IoU",
    "boundary_f": "boundary F",
}
"""Titles of the means, all shares."""
COLUMNS = {"accuracy": "accuracy", "dice": "dice", "boundary_iou": "boundary IoU", "boundary_f": "boundary F"}
"""Titles of what is told of a class beside its IoU."""
BINS, WORST = 20, 10
"""Of the histogram of pictures, and pictures in the list of the worst."""


class Tile(NamedTuple):
    """A score with its interval, if it has one."""

    name: str
    value: float | None
    interval: Interval | None


class ClassRow(NamedTuple):
    """A class's IoU with its interval, its share of the pixels, and its other scores in the order of the columns."""

    name: str
    colour: Colour
    iou: float | None
    interval: Interval | None
    share: float
    others: tuple[float | None, ...]


class Bar(NamedTuple):
    """A bar of a histogram in the view."""

    x: float
    y: float
    width: float
    height: float
    title: str


def write_evaluation_page(
    path: Path,
    record: Record,
    arrays: Mapping[str, np.ndarray],
    gallery: Sequence[GalleryPicture],
    *,
    classes: Classes,
) -> None:
    """Write the page of a record as `semask evaluate` makes it.

    `arrays` may hold `confusion` (pixels, rows are the truth), `image_names` and `image_miou`; of the record's
    sections, `intervals`, `sizes` and `calibration` may be absent, and every number may be null.

    Raises:
        ValueError: the record lacks a section, a number is none, or its classes are not `classes`.
    """
    scores = section(record, "scores")
    found = rows(scores, "classes")
    if len(found) != len(classes):
        raise ValueError(f"the record has {len(found)} classes, the class table {len(classes)}; give the record's own")
    intervals, calibration = optional(record, "intervals"), optional(record, "calibration")
    columns = [key for key in COLUMNS if any(number(row, key) is not None for row in found)]
    environment = {key: record.get(key) for key in ("versions", "hardware", "seed", "seconds", "checkpoint", "data")}
    write_page(
        path,
        "evaluation.html",
        recipe=str(record.get("recipe", "")),
        split=str(optional(record, "data").get("split", "")),
        images=number(record, "images"),
        protocol_name=str(section(record, "protocol").get("name") or "its own protocol"),
        tiles=[
            Tile(name, number(scores, key), interval(intervals.get(key)))
            for key, name in SCORES.items()
            if key in scores
        ],
        miou=number(scores, "miou"),
        columns=[COLUMNS[key] for key in columns],
        classes=_class_rows(found, intervals.get("classes") or [], columns, classes),
        confusion=confusion_view(arrays["confusion"], classes.names) if "confusion" in arrays else None,
        calibration_error=number(calibration, "ece"),
        reliability=_reliability(calibration),
        sizes=_sizes(optional(record, "sizes")),
        pictures=_pictures(arrays),
        gallery=exhibits(gallery, classes),
        protocol=flattened({key: value for key, value in section(record, "protocol").items() if key != "name"}),
        environment=flattened({key: value for key, value in environment.items() if value is not None}),
    )


def _class_rows(
    found: Sequence[Record], intervals: Sequence[Any], columns: Sequence[str], classes: Classes
) -> list[ClassRow]:
    """Return the classes, best first; those without a score last."""
    total = sum(number(row, "pixels") or 0 for row in found) or 1.0
    ranges = [interval(ends) for ends in intervals] if len(intervals) == len(found) else [None] * len(found)
    made = [
        ClassRow(
            str(row.get("name", "")),
            colour,
            number(row, "iou"),
            ends,
            (number(row, "pixels") or 0) / total,
            tuple(number(row, key) for key in columns),
        )
        for row, colour, ends in zip(found, classes.colours, ranges, strict=True)
    ]
    return sorted(made, key=lambda row: -1.0 if row.iou is None else row.iou, reverse=True)


def _reliability(calibration: Record) -> dict[str, Any] | None:
    """Return accuracy over confidence in bins, with the share of pixels in each, or None without any."""
    bins = rows(calibration, "bins") if calibration else []
    filled = [row for row in bins if number(row, "pixels") and number(row, "accuracy") is not None]
    if not filled:
        return None
    across, x_ticks = axis([1.0], LEFT, RIGHT)
    up, y_ticks = axis([1.0], BOTTOM, TOP)
    total = sum(number(row, "pixels") or 0 for row in filled)
    bars, shares, points = [], [], []
    for row in filled:
        low, high, accuracy = (number(row, key) or 0.0 for key in ("low", "high", "accuracy"))
        confidence, share = number(row, "confidence") or (low + high) / 2, (number(row, "pixels") or 0) / total
        left, width = across(low), across(high) - across(low)
        title = f"confidence {low:.2f} … {high:.2f}: {accuracy:.1%} right, {share:.1%} of the pixels"
        bars.append(Bar(left + 1, up(accuracy), width - 2, BOTTOM - up(accuracy), title))
        shares.append(Bar(left + 1, up(share), width - 2, BOTTOM - up(share), title))
        points.append((across(confidence), up(accuracy)))
    plot = Plot("Reliability diagram", "confidence", "accuracy", x_ticks, y_ticks, ())
    return {"plot": plot, "bars": bars, "shares": shares, "points": points}


def _sizes(sizes: Record) -> dict[str, Any] | None:
    """Return the scores by size of objects, with the sizes' bounds in words, or None without any."""
    if not sizes:
        return None
    thresholds = [f"{value:g}" for value in sizes.get("thresholds", [])]
    bounds = [
        f"less than {high}" if low is None else f"{low} and more" if high is None else f"{low} … {high}"
        for low, high in zip([None, *thresholds], [*thresholds, None], strict=True)
    ]
    bins = rows(sizes, "bins")
    if len(bounds) != len(bins):
        bounds = [""] * len(bins)
    return {
        "rows": [
            {"name": str(row.get("name", "")), "bounds": bound}
            | {key: number(row, key) for key in ("miou", "macc", "pixels", "objects")}
            for row, bound in zip(bins, bounds, strict=True)
        ]
    }


def _pictures(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the histogram of the pictures' mIoU and the worst of them, or None without any."""
    if "image_miou" not in arrays or "image_names" not in arrays:
        return None
    scores, names = np.asarray(arrays["image_miou"], np.float64), [str(name) for name in arrays["image_names"]]
    defined = np.isfinite(scores)
    if len(scores) != len(names) or not defined.any():
        return None
    counts, edges = np.histogram(scores[defined], bins=BINS, range=(0.0, 1.0))
    across, x_ticks = axis([1.0], LEFT, RIGHT)
    up, y_ticks = axis([float(counts.max())], BOTTOM, TOP)
    bars = [
        Bar(
            across(low) + 1,
            up(count),
            across(high) - across(low) - 2,
            BOTTOM - up(count),
            f"{low:.2f} … {high:.2f}: {count}",
        )
        for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    ]
    order = np.argsort(np.where(defined, scores, np.inf), kind="stable")[: min(WORST, int(defined.sum()))]
    plot = Plot("Pictures by their mIoU", "mIoU of a picture", "pictures", x_ticks, y_ticks, ())
    return {"plot": plot, "bars": bars, "worst": [(names[index], float(scores[index])) for index in order]}
