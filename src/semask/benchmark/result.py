"""Records of `semask bench`: their required values, and the reader that checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

KIND = "semask bench"
FORMAT = 1
NUMBER = (int, float)
OPTIONAL = (int, float, type(None))
NEEDED: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("title", "recipe", "library", "what", "dtype"), str),
    **dict.fromkeys(("batch", "rounds"), int),
    **dict.fromkeys(("parameters", "multiply_adds", "share_of_peak"), OPTIONAL),
    **dict.fromkeys(("seconds", "time_to_first", "memory"), dict),
    "size": list,
    "images_per_second": NUMBER,
    "checkpoint_stages": (list, type(None)),
}
"""Types of the values of an entry; a value that may be None may also be missing."""
PARTS = {
    "seconds": ("median", "p90", "p99"),
    "time_to_first": ("median", "min", "max"),
    "memory": ("above", "total"),
}
"""Numbers inside an entry's values."""


class Result(NamedTuple):
    """The measurement of one case: the record's path, and the JSON values with the environment."""

    path: Path
    values: dict[str, Any]

    @property
    def title(self) -> str:
        """The name in tables: the recipe, or the library's model."""
        return str(self.values["title"])


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
        # types first, then the numbers inside
        held = entry if isinstance(entry, Mapping) else {}
        wrong = [name for name, types in NEEDED.items() if not isinstance(held.get(name), types)]
        wrong += [
            name
            for name, keys in PARTS.items()
            if name not in wrong and not all(isinstance(held[name].get(key), NUMBER) for key in keys)
        ]
        if wrong:
            raise ValueError(f"{path} is not a whole record of `semask bench`: {wrong[0]!r} is missing or damaged")
    return [Result(path, {**entry, "environment": dict(record["environment"])}) for entry in record["measured"]]


def _values(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
