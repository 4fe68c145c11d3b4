"""A plot of accuracy or size against speed: a point for every measurement."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from semask.benchmark.result import Result
from semask.benchmark.table import Accuracy, conditions_of
from semask.visualization.figures import FAINT, INK, STYLE, save_figure
from semask.visualization.point_names import name_points

By = Literal["miou", "parameters", "multiply-adds"]
AXES: dict[By, tuple[str, str, float]] = {
    "miou": ("mIoU [%]", "", 1),
    "parameters": ("parameters [millions]", "parameters", 1e-6),
    "multiply-adds": ("multiply-adds of an image [10⁹]", "multiply_adds", 1e-9),
}
"""Label of the other axis, its value in a record and the factor to the label's unit."""
COLOURS = {"semask": "#2f6fde", "reference": "#8fb3f0", "transformers": "#e0752d"}
COLOURS |= {"smp": "#3b9c6d", "torchvision": "#a2549c", "timm": FAINT}
MARKERS = {"predict": "o", "forward": "^", "train": "s", "evaluate": "D", "load": "v"}
PLOT_FORMATS = (".png", ".svg", ".pdf")
CAPTION_WIDTH = 120
"""Characters of a line below the figure."""


class Point(NamedTuple):
    """A measurement in the plot: images per second, the other axis's value, measured here or published.

    kind: the kind of run, a value of `semask bench --what`.
    """

    label: str
    library: str
    kind: str
    speed: float
    value: float
    measured: bool


def points(results: Sequence[Result], by: By, accuracies: Mapping[str, Accuracy]) -> list[Point]:
    """A point for every measurement that has both values."""
    found = []
    _, place, factor = AXES[by]
    for result, label in zip(results, labels(results), strict=True):
        # mIoU of an evaluation, or published; other libraries have none
        value, measured = accuracies.get(result.title, (None, False)) if by == "miou" else (result.at(place), True)
        if value is not None:
            library, kind, speed = (result.at(name) for name in ("library", "what", "images_per_second"))
            found.append(Point(label, library, kind, speed, factor * value, measured))
    return found


def labels(results: Sequence[Result]) -> list[str]:
    """The titles of measurements; a repeated title is followed by the conditions that differ."""
    found = []
    for result in results:
        # parts in which the namesakes agree are left out
        alike = [conditions_of(other) for other in results if other.title == result.title]
        own = [part for part, *others in zip(conditions_of(result), *alike, strict=True) if {*others} != {part}]
        found.append(", ".join(filter(None, [result.title, *own])))
    return found


def plot(path: Path, shown: Sequence[Point], by: By, *, caption: str = "") -> None:
    """Draw the points and write the figure, with a caption below.

    Filled points were measured here, hollow ones have published accuracy. Each kind of run has a marker of its own.
    """
    libraries = dict.fromkeys(point.library for point in shown)
    kinds = [kind for kind in MARKERS if kind in {point.kind for point in shown}]
    several = len(kinds) > 1
    speeds, values = [point.speed for point in shown], [point.value for point in shown]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.4), layout="constrained", dpi=200)
        axes = figure.add_subplot()

        def draw(x: Any, y: Any, library: str, kind: str = "", *, filled: bool = True, **given: Any) -> None:
            marker, colour = MARKERS[kind] if kind and several else "o", COLOURS.get(library, INK)
            axes.plot(x, y, marker, ms=7, mew=1.6, color=colour, mfc=colour if filled else "white", **given)

        for _, library, kind, speed, value, measured in shown:
            draw(speed, value, library, kind, filled=measured, zorder=3, clip_on=False)
        # speeds differ by factors, and so do sizes; the room beyond the points is for labels
        room = max(0.2 * (max(values) - min(values)), 0.5)
        axes.set(xscale="log", xlim=(min(speeds) / 1.4, max(speeds) * 1.4))
        axes.set(ylim=(min(values) - room, max(values) + room))
        logarithmic: list[Axis] = [axes.xaxis]
        if by != "miou":
            axes.set(yscale="log", ylim=(min(values) / 1.4, max(values) * 1.4))
            logarithmic.append(axes.yaxis)
        for axis in logarithmic:
            # ticks at round numbers, written without powers of ten
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("images/s", loc="right")
        axes.set_ylabel(AXES[by][0], loc="top")
        # legend: libraries and kinds of run where there are several, and hollow points
        for library in libraries if len(libraries) > 1 else ():
            draw([], [], library, label=library)
        for kind in kinds if several else ():
            draw([], [], "timm", kind, label=kind)
        if not all(point.measured for point in shown):
            draw([], [], "timm", filled=False, label="published mIoU, of the recipe's own test")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize=8)
        # caption below, then labels, whose places depend on all else
        lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, CAPTION_WIDTH)]
        figure.supxlabel("\n".join(lines), fontsize=7, color=FAINT)
        name_points(axes, np.array([speeds, values]).T, [point.label for point in shown])
        save_figure(figure, path)
