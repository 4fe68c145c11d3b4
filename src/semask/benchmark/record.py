"""The record of a measurement: one entry for every side, with everything it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from semask.benchmark.memory import Memory
from semask.benchmark.options import Options
from semask.benchmark.rounds import Spread, Timings, spread
from semask.benchmark.sides import Side
from semask.benchmark.work import INSIDE
from semask.ops.reference import is_plain

KIND = "semask bench"
FORMAT = 1
NUMBER = (int, float)
NONE = type(None)
NEEDED: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "recipe": str,
    "library": str,
    "what": str,
    "size": list,
    "batch": int,
    "dtype": str,
    "rounds": int,
    "images_per_second": NUMBER,
    "seconds": dict,
    "time_to_first": dict,
    "memory": dict,
    "parameters": (*NUMBER, NONE),
    "multiply_adds": (*NUMBER, NONE),
    "share_of_peak": (*NUMBER, NONE),
    "recompute_stages": (list, NONE),
}
"""What every entry has, and of which types; what may be None may be left out."""
PARTS = {
    "seconds": ("median", "p90", "p99"),
    "time_to_first": ("median", "least", "greatest"),
    "memory": ("above", "total"),
}
"""Numbers that parts of an entry have."""


class BenchRecord(NamedTuple):
    """A measurement of one side as it was written: where, and its JSON values."""

    path: Path
    values: dict[str, Any]

    @property
    def title(self) -> str:
        """What tables call it: the recipe, or the peer."""
        return str(self.values["title"])


def entry(side: Side, timings: Timings, first: str, memory: Memory, options: Options) -> dict[str, Any]:
    """Return what was measured of a side as JSON values; `first` is the side that ratios are to."""
    seconds = timings.seconds[side.title]
    rate = side.images / timings.spread(side.title).median
    plain = is_plain() or side.library == "plain"
    return {
        "title": side.title,
        "recipe": side.recipe,
        "library": side.library,
        "what": options.what,
        "inside": [*INSIDE[options.what], *(["optimiser's step"] if options.step else [])],
        "size": list(side.size),
        "batch": side.batch,
        "largest_batch": options.max_batch,
        "dtype": options.dtype,
        "autocast": options.dtype != "float32",
        "compile": options.compile,
        "channels_last": side.channels_last,
        "recompute_stages": list(side.recomputed),
        "plain": plain,
        "test": options.test if options.what in ("predict", "evaluate") else None,
        "workers": options.workers if options.reads_files else None,
        "images_per_run": side.images,
        "rounds": len(seconds),
        "seconds": numbers(timings.spread(side.title)),
        "every_second": list(seconds),
        "images_per_second": rate,
        "images_per_second_of_a_worker": rate / options.workers if options.reads_files and options.workers else None,
        "to": first,
        "memory": {"above": memory.above, "total": memory.total, "meter": memory.meter},
        "parameters": None if side.cost is None else side.cost.parameters,
        "multiply_adds": side.multiply_adds,
    }


def numbers(found: Spread) -> dict[str, float]:
    """Return a spread as JSON values."""
    return {**found._asdict(), "iqr": found.iqr}


def ratios(sides: Sequence[Side], timings: Timings) -> list[dict[str, float]]:
    """Return, of every side, the spread of the rounds' ratios: its time for an image over the first side's."""
    first = sides[0]
    found = []
    for side in sides:
        pairs = zip(timings.seconds[side.title], timings.seconds[first.title], strict=True)
        found.append(numbers(spread([ours / side.images / (theirs / first.images) for ours, theirs in pairs])))
    return found


def read_bench(path: Path) -> list[BenchRecord]:
    """Return the records in a file; a ValueError tells what is wrong with it."""
    values = _values(path)
    entries, around = values.get("measured"), values.get("environment")
    known = values.get("format") == FORMAT
    if not (known and isinstance(entries, list) and entries and isinstance(around, Mapping)):
        raise ValueError(f"{path} is no record of `semask bench` of format {FORMAT}; measure once more")
    for entry in entries:
        if (name := _spoilt(entry)) is not None:
            raise ValueError(f"{path} is no whole record of `semask bench`: its {name!r} is missing or spoilt")
    return [BenchRecord(path, {**entry, "environment": dict(around)}) for entry in entries]


def _spoilt(entry: object) -> str | None:
    """Return the name of a value of an entry that is missing or of another type; None where there is none."""
    if not isinstance(entry, Mapping):
        return "title"
    for name, kinds in NEEDED.items():
        if not isinstance(entry.get(name), kinds):
            return name
    for name, keys in PARTS.items():
        if not all(isinstance(entry[name].get(key), NUMBER) for key in keys):
            return name
    return None


def holds_bench(path: Path) -> bool:
    """Say whether a file says that it is a measurement of speed; what else it holds is not looked at."""
    return _values(path).get("kind") == KIND


def _values(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one where there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
