"""Values of a record, which may be missing or null; an error names the key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Interval = tuple[float, float]


def section(record: Record, key: str, *, optional: bool = False) -> Record:
    """Return the object under a key, with `optional` an empty one in place of null; else raise a ValueError."""
    found = record.get(key)
    if found is None and optional:
        return {}
    if not isinstance(found, Mapping):
        raise ValueError(f"the record has no {key!r}; write it again with `semask evaluate` or `semask compare`")
    return found


def rows(record: Record, key: str) -> Sequence[Record]:
    """Return the list of objects under a key; raise a ValueError for anything else."""
    found = record.get(key)
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ValueError(f"the record's {key!r} must be a list of objects; write it again with `semask evaluate`")
    return found


def number(record: Record, key: str) -> float | None:
    """Return a number, None for null, NaN or infinity; raise a ValueError for anything else."""
    value = record.get(key)
    if value is None:
        return None
    # JSON's true is an int in Python
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the record's {key!r} must be a number, got {value!r}")
    return float(value) if math.isfinite(value) else None


def interval(ends: object) -> Interval | None:
    """Return an interval from a list of two numbers; None for anything without both."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = number({"low": ends[0]}, "low"), number({"high": ends[1]}, "high")
    return None if low is None or high is None else (low, high)


def flattened(record: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested objects as (place, text), in order."""

    def text(value: object) -> str:
        if isinstance(value, list | tuple):
            return " ".join(map(text, value))
        return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text(value)
