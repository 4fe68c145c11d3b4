"""Reading records that were written earlier, perhaps by hand: what is missing or no number is told by its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def section(record: Record, *place: str) -> Record:
    """Return the object at a place; a ValueError names it if it is not there."""
    found: Record = record
    for depth, key in enumerate(place, start=1):
        inner = found.get(key)
        if not isinstance(inner, Mapping):
            raise ValueError(
                f"the record has no {'.'.join(place[:depth])!r}; make it anew with `semask evaluate` or "
                "`semask compare`"
            )
        found = inner
    return found


def optional(record: Record, key: str) -> Record:
    """Return the object under a key, empty where there is none; a ValueError for anything else."""
    return {} if record.get(key) is None else section(record, key)


def rows(record: Record, key: str) -> Sequence[Record]:
    """Return the list of objects under a key; a ValueError if there is none."""
    found = record.get(key)
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ValueError(f"the record's {key!r} is no list of objects; make it anew with `semask evaluate`")
    return found


def number(record: Record, key: str) -> float | None:
    """Return a number, None where there is none; a ValueError for anything else."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the record's {key!r} is no number: {value!r}")
    return float(value) if math.isfinite(value) else None


def interval(ends: object) -> Interval | None:
    """Return an interval from a list of two numbers; None for anything without both."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    record = dict(zip(("low", "high"), ends, strict=True))
    low, high = number(record, "low"), number(record, "high")
    return None if low is None or high is None else Interval(low, high)


def flattened(record: Record, prefix: str = "") -> list[tuple[str, str]]:
    """Return the values of nested objects as (place, text), in order."""
    found: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += flattened(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", _told(value)))
    return found


def _told(value: object) -> str:
    if value is None:
        return "none"
    return (
        " ".join(map(_told, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
