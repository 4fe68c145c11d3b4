"""Records of `semask bench`: their required values, and the reader that checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

KIND = "semask bench"
FORMAT = 1
NUMBER = (int, float)
NEEDED: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("title", "recipe", "library", "what", "dtype"), str),
    **dict.fromkeys(("batch", "rounds"), int),
    **dict.fromkeys(("parameters", "multiply_adds", "share_of_peak"), (*NUMBER, type(None))),
    **dict.fromkeys(("images_per_second", "seconds.median", "seconds.p90", "seconds.p99"), NUMBER),
    **dict.fromkeys(("time_to_first.median", "time_to_first.min", "time_to_first.max"), NUMBER),
    **dict.fromkeys(("memory.above", "memory.total"), NUMBER),
    "size": list,
    "checkpoint_stages": (list, type(None)),
}
"""Types of the values of an entry, by their places; a value that may be None may also be missing."""


class Result(NamedTuple):
    """The measurement of one case: the record's path, and the JSON values with the environment."""

    path: Path
    values: dict[str, Any]

    @property
    def title(self) -> str:
        """The name in tables: the recipe, or the library's model."""
        return str(self.values["title"])

    def at(self, place: str) -> Any:
        """The value at a place such as seconds.median or environment.cpu; None where there is none."""
        return value_at(self.values, place)


def value_at(values: Any, place: str) -> Any:
    """The value at a place of nested mappings, such as seconds.median; None where there is none."""
    for key in place.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def is_bench(path: Path) -> bool:
    """Whether a file names itself a record of `semask bench`; its values are not checked."""
    return _values(path).get("kind") == KIND


def read_bench(path: Path) -> list[Result]:
    """The measurements in a file.

    Raises:
        ValueError: the file is of another format, or a value is missing or of another type.
    """
    values = _values(path)
    entries, around = values.get("measured"), values.get("environment")
    if not (values.get("format") == FORMAT and isinstance(entries, list) and entries and isinstance(around, Mapping)):
        raise ValueError(f"{path} is not a record of `semask bench` of format {FORMAT}; measure once more")
    return results_of(path, values)


def results_of(path: Path, record: Mapping[str, Any]) -> list[Result]:
    """The measurements in a record, checked one by one."""
    for entry in record["measured"]:
        for place, types in NEEDED.items():
            if not isinstance(value_at(entry, place), types):
                raise ValueError(f"{path} is not a whole record of `semask bench`: {place!r} is missing or damaged")
    return [Result(path, {**entry, "environment": dict(record["environment"])}) for entry in record["measured"]]


def _values(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
