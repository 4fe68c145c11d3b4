"""Pages from templates, with numbers as text and plots in the units of their view."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from semask.files import atomic_write
from semask.text import percent

UNKNOWN = "–"
"""Text of an undefined number."""


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares in percentage points, with + or −."""
    return UNKNOWN if value is None else f"{100 * value:+.{digits}f}".replace("-", "−")


def grouped(value: float | None) -> str:
    """Return a count with spaces between its thousands."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\u202f")


def short(value: float | None) -> str:
    """Return a number with three significant digits."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.3g}"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("semask.visualization.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    share = functools.partial(percent, digits=1)
    environment.filters |= {"percent": share, "signed": signed, "grouped": grouped, "short": short}
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of this package, all text escaped."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package, all text escaped, and write it, whole or not at all."""
    text = render(template, **values)
    with atomic_write(path) as part:
        # File names may hold bytes that are no text.
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def axis(largest: float, start: float, end: float) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Return the scale from values, 0 … `largest`, to places between start and end, and round ticks."""
    # round marks that cover the values
    marks = [float(mark) for mark in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0.0, largest)]

    def place(value: float) -> float:
        return round(start + (end - start) * value / marks[-1], 2)

    return place, [(place(mark), f"{mark:g}") for mark in marks]


class Plot:
    """A plot in a view of 480×340 units, whose axes begin at 0 and have round ticks."""

    left, right, top, bottom, width, height = 46.0, 468.0, 26.0, 300.0, 480.0, 340.0

    def __init__(self, title: str, x_title: str, y_title: str, *, x_max: float, y_max: float) -> None:
        self.title, self.x_title, self.y_title = title, x_title, y_title
        self.across, self.x_ticks = axis(x_max, self.left, self.right)
        self.up, self.y_ticks = axis(y_max, self.bottom, self.top)

    def bar(self, low: float, high: float, value: float, title: str) -> dict[str, float | str]:
        """Return the rectangle of a value over a bin, for the template."""
        x, y = self.across(low), self.up(value)
        return {"x": x + 1, "y": y, "width": self.across(high) - x - 2, "height": self.bottom - y, "title": title}
