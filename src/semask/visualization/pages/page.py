"""Making a page from a template: escaping, numbers as text, one whole file."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from semask.files import atomic_write

UNKNOWN = "–"
"""What stands for a number that is not defined."""


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package and write it, whole or not at all; whatever text goes in is escaped."""
    text = _environment().get_template(template).render(**values)
    with atomic_write(path) as part:
        # File names may hold bytes that are no text.
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage without its sign."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares in percentage points, with + or −."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", "−")


def grouped(value: float | None) -> str:
    """Return a count with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\u202f")


def short(value: float | None) -> str:
    """Return a number with three significant digits."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.3g}"


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Return round numbers, about `count` of them, that cover low … high."""
    span = max(high - low, 1e-9)
    rough = span / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("semask.visualization.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed, "grouped": grouped, "short": short}
    return environment
