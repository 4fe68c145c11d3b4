"""Where the dots of a plot lie in its view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from semask.visualization.pages.page import ticks

LEFT, RIGHT, TOP, BOTTOM = 46.0, 468.0, 26.0, 300.0
"""The frame in the view."""

Scale = Callable[[float], float]


class Dot(NamedTuple):
    """A disc in the view; `style` is main or second."""

    x: float
    y: float
    radius: float
    style: str
    title: str


class Plot(NamedTuple):
    """A frame [units of the view] with its ticks, as (place, text), and what lies in it."""

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    dots: tuple[Dot, ...]
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM
    width: float = 480.0
    height: float = 340.0


def axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, tuple[tuple[float, str], ...]]:
    """Return how values become places between start and end, beginning at 0, and round ticks."""
    marks = ticks(0.0, max(values))
    last = marks[-1]

    def place(value: float) -> float:
        return round(start + (end - start) * value / last, 2)

    return place, tuple((place(mark), f"{mark:g}") for mark in marks)
