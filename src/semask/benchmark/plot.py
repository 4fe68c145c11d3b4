"""Accuracy, or size, against speed: a point for every measurement."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from semask.benchmark.record import BenchRecord
from semask.benchmark.report import Accuracy, conditions_of
from semask.files import whole_file
from semask.visualization.figures import FAINT, INK, STYLE

By = Literal["miou", "parameters", "multiply-adds"]
LABELS: dict[By, str] = {
    "miou": "mIoU [%]",
    "parameters": "parameters [millions]",
    "multiply-adds": "multiply-adds of an image [10⁹]",
}
COLOURS = {
    "semask": "#2f6fde",
    "plain": "#8fb3f0",
    "transformers": "#e0752d",
    "smp": "#3b9c6d",
    "torchvision": "#a2549c",
    "timm": "#8b949e",
}
MARKERS = {"predict": "o", "forward": "^", "train": "s", "evaluate": "D", "load": "v"}
"""Of the kinds of run, where a plot has several."""
FORMATS = (".png", ".svg", ".pdf")
WIDTH, HEIGHT, DPI = 7.0, 4.4, 200
"""Of the figure [inches], and its dots per inch."""
CAPTION = 120
"""Characters of a line below a figure."""
AROUND = tuple(itertools.product((8, -8, 0), (7, -7, 0)))[:-1]
"""Where a label may stand beside its point [points]."""


class Point(NamedTuple):
    """A measurement in the plot: images per second, the other axis's value, and whether that was measured here.

    kind: of run, as `semask bench --what` has it.
    """

    label: str
    library: str
    kind: str
    speed: float
    value: float
    measured: bool


def points(records: Sequence[BenchRecord], by: By, accuracies: Mapping[str, Accuracy]) -> list[Point]:
    """Return the measurements of which both values are known."""
    found = []
    for record, label in zip(records, labels(records), strict=True):
        value, measured = _value(record, by, accuracies)
        if value is not None:
            speed = float(record.values["images_per_second"])
            library, kind = str(record.values["library"]), str(record.values["what"])
            found.append(Point(label, library, kind, speed, value, measured))
    return found


def labels(records: Sequence[BenchRecord]) -> list[str]:
    """Return the titles of measurements, behind those that are there several times what tells them apart."""
    told = []
    for record in records:
        alike = [conditions_of(other) for other in records if other.title == record.title]
        own = [part for part, *others in zip(conditions_of(record), *alike, strict=True) if {*others} != {part}]
        told.append(", ".join(filter(None, [record.title, *own])))
    return told


def plot(path: Path, chosen: Sequence[Point], by: By, *, caption: str = "") -> None:
    """Draw the points and write the figure; `caption` says below what was measured where.

    Filled points were measured here, hollow ones are of published accuracy.
    """
    markers = _markers(chosen)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", dpi=DPI)
        axes = figure.add_subplot()
        for point in chosen:
            colour = COLOURS.get(point.library, INK)
            face = colour if point.measured else "white"
            axes.plot(
                point.speed,
                point.value,
                markers[point.kind],
                ms=7,
                mew=1.6,
                color=colour,
                markerfacecolor=face,
                zorder=3,
                clip_on=False,
            )
        _scale(axes, chosen, by)
        axes.set_xlabel("images/s", loc="right")
        axes.set_ylabel(LABELS[by], loc="top")
        _legend(axes, chosen, markers)
        if caption:
            lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, CAPTION)]
            figure.supxlabel("\n".join(lines), fontsize=7, color=FAINT)
        _label(figure, axes, chosen)
        with whole_file(path) as part:
            figure.savefig(part, format=path.suffix[1:])


def _value(record: BenchRecord, by: By, accuracies: Mapping[str, Accuracy]) -> tuple[float | None, bool]:
    if by == "miou":
        found = accuracies.get(record.title)
        return (None, False) if found is None else (found.miou, found.measured)
    key, unit = ("parameters", 1e6) if by == "parameters" else ("multiply_adds", 1e9)
    value = record.values.get(key)
    return (None if value is None else value / unit), True


def _scale(axes: Axes, chosen: Sequence[Point], by: By) -> None:
    """Give speeds, which differ by factors, and costs a logarithmic axis, with room for labels."""
    scales = [("x", [point.speed for point in chosen])]
    scales += [] if by == "miou" else [("y", [point.value for point in chosen])]
    for which, values in scales:
        axis = axes.xaxis if which == "x" else axes.yaxis
        getattr(axes, f"set_{which}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
        getattr(axes, f"set_{which}lim")(min(values) / 1.4, max(values) * 1.4)
    if by == "miou":
        values = [point.value for point in chosen]
        room = max(0.2 * (max(values) - min(values)), 0.5)
        axes.set_ylim(min(values) - room, max(values) + room)


def _markers(chosen: Sequence[Point]) -> dict[str, str]:
    """Return the marker of each kind of run that there is: times of different kinds are nothing to compare."""
    kinds = [kind for kind in MARKERS if kind in {point.kind for point in chosen}]
    return {kind: MARKERS[kind] for kind in kinds} if len(kinds) > 1 else dict.fromkeys(kinds, "o")


def _legend(axes: Axes, chosen: Sequence[Point], markers: Mapping[str, str]) -> None:
    libraries = dict.fromkeys(point.library for point in chosen)
    if len(libraries) > 1:
        for library in libraries:
            axes.plot([], [], "o", ms=6, color=COLOURS.get(library, INK), label=library)
    if len(markers) > 1:
        for kind, marker in markers.items():
            axes.plot([], [], marker, ms=6, color=FAINT, label=kind)
    if not all(point.measured for point in chosen):
        axes.plot(
            [],
            [],
            "o",
            ms=6,
            mew=1.6,
            color=FAINT,
            markerfacecolor="white",
            label="published mIoU, of the recipe's own test",
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)


def _label(figure: Figure, axes: Axes, chosen: Sequence[Point]) -> None:
    """Write each label where it covers least of what is there."""
    figure.draw_without_rendering()
    taken = [_box(axes.transData.transform((point.speed, point.value)), 10 * DPI / 72) for point in chosen]
    if (legend := axes.get_legend()) is not None:
        taken.append(np.asarray(legend.get_window_extent().extents))
    frame = np.asarray(axes.get_window_extent().extents)
    for point in chosen:
        tried = []
        for right, up in AROUND:
            text = axes.annotate(
                point.label,
                (point.speed, point.value),
                xytext=(right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right" if right < 0 else "center",
                va="bottom" if up > 0 else "top" if up < 0 else "center",
                fontsize=7.5,
                color=INK,
            )
            box = np.asarray(text.get_window_extent().extents)
            outside = _area(box) - _shared(box, frame)
            tried.append((sum(_shared(box, other) for other in taken) + 2 * outside, text, box))
        _, best, box = min(tried, key=lambda each: each[0])
        for _, text, _ in tried:
            if text is not best:
                text.remove()
        taken.append(box)


def _box(centre: np.ndarray, side: float) -> np.ndarray:
    return np.concatenate([centre - side / 2, centre + side / 2])


def _area(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """Return the area that two boxes (left, bottom, right, top) share."""
    return _area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
