"""The page of an evaluation: scores with their intervals, classes, confusion, reliability, sizes, images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from semask.data.classes import Classes
from semask.visualization.pages.images import GalleryImage, exhibits, matrix_uri
from semask.visualization.pages.page import Plot, write_page
from semask.visualization.pages.record import Record, flattened, interval, number, rows, section

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
"""Titles of a class's scores beside its IoU."""
BINS, WORST = 20, 10
"""Bins of the histogram of images, and images in the list of the worst."""
READABLE, MISTAKES = 40, 20
"""Most classes whose names fit beside the confusion matrix, and most mistakes in their table."""
COLOUR = (47, 111, 222)


class Mistake(NamedTuple):
    """Pixels of one class predicted as another, and their share of all pixels of that class."""

    truth: str
    prediction: str
    share: float
    pixels: int


class ConfusionView(NamedTuple):
    """The matrix as an image, a pixel an entry; names and, for few classes, cells (row, column, text); mistakes."""

    image: str
    names: tuple[str, ...]
    readable: bool
    cells: list[tuple[int, int, str]]
    mistakes: list[Mistake]


def write_evaluation_page(
    path: Path,
    record: Record,
    arrays: Mapping[str, np.ndarray],
    gallery: Sequence[GalleryImage],
    *,
    classes: Classes,
) -> None:
    """Write the page of a record as `semask evaluate` makes it.

    `arrays` may hold `confusion` (pixels, rows are the truth), `image_names` and `image_miou`; of the record's
    sections, `intervals`, `sizes`, `calibration`, `never_predicted` and `advice` may be absent, and every number may be
    null.

    Raises:
        ValueError: the record lacks a section, a value is no number, or its classes are not `classes`.
    """
    scores, protocol = section(record, "scores"), section(record, "protocol")
    intervals, calibration = (section(record, key, optional=True) for key in ("intervals", "calibration"))
    found = rows(scores, "classes")
    if len(found) != len(classes):
        raise ValueError(f"the record has {len(found)} classes, the class table {len(classes)}; give the record's own")
    # class table: best first, those without a score last
    columns = [key for key in COLUMNS if any(number(row, key) is not None for row in found)]
    total = sum(number(row, "pixels") or 0 for row in found) or 1.0
    ends = intervals.get("classes") or []
    table = [
        {
            "name": str(row.get("name", "")),
            "colour": colour,
            "iou": number(row, "iou"),
            "interval": interval(ends[index]) if len(ends) == len(found) else None,
            "share": (number(row, "pixels") or 0) / total,
            "others": [number(row, key) for key in columns],
        }
        for index, (row, colour) in enumerate(zip(found, classes.colours, strict=True))
    ]
    table.sort(key=lambda row: -1.0 if row["iou"] is None else row["iou"], reverse=True)
    environment = {key: record.get(key) for key in ("versions", "hardware", "seed", "seconds", "checkpoint", "data")}
    write_page(
        path,
        "evaluation.html",
        recipe=str(record.get("recipe", "")),
        split=str(section(record, "data", optional=True).get("split", "")),
        image_count=number(record, "images"),
        protocol_name=str(protocol.get("name") or "its own protocol"),
        tiles=[
            (name, number(scores, key), interval(intervals.get(key))) for key, name in SCORES.items() if key in scores
        ],
        miou=number(scores, "miou"),
        missing=[str(name) for name in record.get("never_predicted") or ()],
        advice=record.get("advice"),
        columns=[COLUMNS[key] for key in columns],
        classes=table,
        confusion=confusion_view(arrays["confusion"], classes.names) if "confusion" in arrays else None,
        calibration_error=number(calibration, "ece"),
        reliability=_reliability(calibration),
        sizes=_sizes(section(record, "sizes", optional=True)),
        images=_images(arrays),
        gallery=exhibits(gallery, classes),
        protocol=list(flattened({key: value for key, value in protocol.items() if key != "name"})),
        environment=list(flattened({key: value for key, value in environment.items() if value is not None})),
    )


def confusion_view(confusion: Int64[np.ndarray, "k k"], names: Sequence[str]) -> ConfusionView:
    """Return the view of a matrix of pixels whose rows are the truth.

    Raises:
        ValueError: the matrix is not square, or of another number of classes.
    """
    count = len(names)
    if confusion.shape != (count, count):
        raise ValueError(f"a confusion matrix of {confusion.shape} for {count} classes; both must agree")
    # shares of each class's pixels, 0 for a class without any
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    filled = zip(*np.nonzero(shares >= 0.005), strict=True) if count <= READABLE // 2 else ()
    cells = [(row, column, f"{100 * shares[row, column]:.0f}") for row, column in filled]
    # most frequent mistakes
    wrong = np.where(np.eye(count, dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES].tolist()
    mistakes = [
        Mistake(names[row], names[column], float(shares[row, column]), int(wrong[row, column]))
        for row, column in (divmod(place, count) for place in order)
        if wrong[row, column]
    ]
    return ConfusionView(matrix_uri(shares, COLOUR), tuple(names), count <= READABLE, cells, mistakes)


def _reliability(calibration: Record) -> dict[str, Any] | None:
    """Return accuracy over confidence in bins, with the share of pixels in each, or None without any."""
    bins = rows(calibration, "bins") if calibration else []
    filled = [row for row in bins if number(row, "pixels") and number(row, "accuracy") is not None]
    if not filled:
        return None
    plot = Plot("Reliability diagram", "confidence", "accuracy", x_max=1.0, y_max=1.0)
    # accuracy and share of pixels as bars, mean confidence as points
    total = sum(number(row, "pixels") or 0 for row in filled)
    bars, shares, points = [], [], []
    for row in filled:
        low, high, accuracy = (number(row, key) or 0.0 for key in ("low", "high", "accuracy"))
        confidence, share = number(row, "confidence") or (low + high) / 2, (number(row, "pixels") or 0) / total
        title = f"confidence {low:.2f} … {high:.2f}: {accuracy:.1%} right, {share:.1%} of the pixels"
        bars.append(plot.bar(low, high, accuracy, title))
        shares.append(plot.bar(low, high, share, title))
        points.append((plot.across(confidence), plot.up(accuracy)))
    return {"plot": plot, "bars": bars, "shares": shares, "points": points}


def _sizes(sizes: Record) -> list[dict[str, Any]]:
    """Return the scores by size of objects, with the sizes' bounds in words; nothing without any."""
    if not sizes:
        return []
    thresholds = [f"{value:g}" for value in sizes.get("thresholds", [])]
    bins = rows(sizes, "bins")
    # bounds in words
    bounds = [f"{low} … {high}" for low, high in itertools.pairwise(thresholds)]
    bounds = [f"less than {thresholds[0]}", *bounds, f"{thresholds[-1]} and more"] if thresholds else []
    return [
        {"name": str(row.get("name", "")), "bounds": bounds[index] if len(bounds) == len(bins) else ""}
        | {key: number(row, key) for key in ("miou", "macc", "pixels", "objects")}
        for index, row in enumerate(bins)
    ]


def _images(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the histogram of the images' mIoU and the worst images, or None without any."""
    if "image_miou" not in arrays or "image_names" not in arrays:
        return None
    scores, names = np.asarray(arrays["image_miou"], np.float64), arrays["image_names"]
    defined = np.isfinite(scores)
    if len(scores) != len(names) or not defined.any():
        return None
    # histogram
    counts, edges = (each.tolist() for each in np.histogram(scores[defined], bins=BINS, range=(0.0, 1.0)))
    plot = Plot("Images by their mIoU", "mIoU of an image", "images", x_max=1.0, y_max=max(counts))
    bars = [
        plot.bar(low, high, count, f"{low:.2f} … {high:.2f}: {count}")
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    # sorting puts nan last
    order = np.argsort(scores, kind="stable")[: min(WORST, int(defined.sum()))]
    return {"plot": plot, "bars": bars, "worst": [(str(names[index]), float(scores[index])) for index in order]}
