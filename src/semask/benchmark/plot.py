"""A plot of accuracy or size against speed: a point for every measurement."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from semask.benchmark.result import Result
from semask.benchmark.table import Accuracy, conditions_of
from semask.files import atomic_write
from semask.visualization.figures import FAINT, INK, STYLE

By = Literal["miou", "parameters", "multiply-adds"]
LABELS: dict[By, str] = {
    "miou": "mIoU [%]",
    "parameters": "parameters [millions]",
    "multiply-adds": "multiply-adds of an image [10⁹]",
}
COLOURS = {
    "semask": "#2f6fde",
    "reference": "#8fb3f0",
    "transformers": "#e0752d",
    "smp": "#3b9c6d",
    "torchvision": "#a2549c",
    "timm": "#8b949e",
}
MARKERS = {"predict": "o", "forward": "^", "train": "s", "evaluate": "D", "load": "v"}
PLOT_FORMATS = (".png", ".svg", ".pdf")
CAPTION_WIDTH = 120
"""Characters of a line below the figure."""
AROUND = tuple(itertools.product((8, -8, 0), (7, -7, 0)))[:-1]
"""Offsets of a label from its point [points]."""


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
    for result, label in zip(results, labels(results), strict=True):
        values = result.values
        if by == "miou":
            # of an evaluation, or published; other libraries have none
            value, measured = accuracies.get(result.title, (None, False))
        else:
            # in the units of the labels
            number, measured = values.get(by.replace("-", "_")), True
            value = None if number is None else number / (1e6 if by == "parameters" else 1e9)
        if value is not None:
            speed = float(values["images_per_second"])
            found.append(Point(label, str(values["library"]), str(values["what"]), speed, value, measured))
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
    # a marker for each kind of run, a colour for each library
    kinds = [kind for kind in MARKERS if kind in {point.kind for point in shown}]
    markers = {kind: MARKERS[kind] for kind in kinds} if len(kinds) > 1 else dict.fromkeys(kinds, "o")
    with rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.4), layout="constrained", dpi=200)
        axes = figure.add_subplot()

        def draw(x: Any, y: Any, marker: str, colour: str, *, filled: bool = True, **given: Any) -> None:
            axes.plot(x, y, marker, ms=7, mew=1.6, color=colour, mfc=colour if filled else "white", **given)

        for point in shown:
            colour = COLOURS.get(point.library, INK)
            draw(point.speed, point.value, markers[point.kind], colour, filled=point.measured, zorder=3, clip_on=False)
        # speeds differ by factors, and so do sizes; the room beyond the points is for labels
        _logarithmic(axes, "x", [point.speed for point in shown])
        values = [point.value for point in shown]
        if by == "miou":
            room = max(0.2 * (max(values) - min(values)), 0.5)
            axes.set_ylim(min(values) - room, max(values) + room)
        else:
            _logarithmic(axes, "y", values)
        axes.set_xlabel("images/s", loc="right")
        axes.set_ylabel(LABELS[by], loc="top")
        # legend: libraries and kinds of run where there are several, and hollow points
        libraries = dict.fromkeys(point.library for point in shown)
        for library in libraries if len(libraries) > 1 else ():
            draw([], [], "o", COLOURS.get(library, INK), label=library)
        for kind in kinds if len(kinds) > 1 else ():
            draw([], [], markers[kind], FAINT, label=kind)
        if not all(point.measured for point in shown):
            draw([], [], "o", FAINT, filled=False, label="published mIoU, of the recipe's own test")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize=8)
        # caption below, then labels, whose places depend on all else
        if caption:
            lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, CAPTION_WIDTH)]
            figure.supxlabel("\n".join(lines), fontsize=7, color=FAINT)
        _label(figure, axes, shown)
        with atomic_write(path) as part:
            figure.savefig(part, format=path.suffix[1:])


def _logarithmic(axes: Axes, name: Literal["x", "y"], values: Sequence[float]) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    getattr(axes, f"set_{name}scale")("log")
    # ticks at round numbers, written without powers of ten
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    getattr(axes, f"set_{name}lim")(min(values) / 1.4, max(values) * 1.4)


def _label(figure: Figure, axes: Axes, shown: Sequence[Point]) -> None:
    """Write each label where it covers least of points, legend and earlier labels, and stays inside the frame."""
    figure.draw_without_rendering()
    centres = [axes.transData.transform((point.speed, point.value)) for point in shown]
    # squares around the points, which no label should cover
    taken = [Bbox.from_bounds(x - 14, y - 14, 28, 28) for x, y in centres]
    if (legend := axes.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    frame = axes.get_window_extent()

    def shared(one: Bbox, other: Bbox) -> float:
        both = Bbox.intersection(one, other)
        return 0.0 if both is None else float(both.width * both.height)

    # one label after the other, in the order of the table
    for point in shown:
        text = axes.annotate(
            point.label, (point.speed, point.value), xytext=(0, 0), textcoords="offset points", fontsize=7.5, color=INK
        )

        def covered(offset: tuple[int, int], text: Annotation = text) -> float:
            text.xyann = offset
            right, up = offset
            sides = {8: "left", -8: "right", 7: "bottom", -7: "top", 0: "center"}
            text.set(ha=sides[right], va=sides[up])
            # outside the frame counts twice: such a label may be cut off
            box = text.get_window_extent()
            outside = box.width * box.height - shared(box, frame)
            return sum(shared(box, other) for other in taken) + 2 * outside

        covered(min(AROUND, key=covered))  # leaves the label there
        taken.append(text.get_window_extent())
