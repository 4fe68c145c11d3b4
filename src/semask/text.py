"""Shares as percentages."""

from __future__ import annotations

import math


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share as a percentage with so many decimals; – is undefined."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, which takes an s unless it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
