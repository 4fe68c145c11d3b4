"""The record of a measurement: one entry for every side, with everything it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from semask.benchmark.memory import Memory
from semask.benchmark.options import Options
from semask.benchmark.rounds import Timings
from semask.benchmark.sides import Side
from semask.benchmark.spread import Spread, spread
from semask.benchmark.work import INSIDE
from semask.plain import is_plain

KIND = "semask bench"
FORMAT = 1
NEEDED = ("title", "recipe", "library", "what", "images_per_second", "environment")


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
    plain = is_plain() or side.library == "plain"
    return {
        "title": side.title,
        "recipe": side.recipe,
        "library": side.library,
        "what": options.what,
        "inside": [*INSIDE[options.what], *(["optimiser's step"] if options.step else [])],
        "size": list(side.size),
        "batch": side.batch,
        "largest_batch": options.largest,
        "dtype": options.dtype,
        "autocast": options.dtype != "float32",
        "compile": options.compile,
        "channels_last": side.channels_last,
        "plain": plain,
        "test": options.test if options.what in ("predict", "evaluate") else None,
        "workers": options.workers if options.reads_files else None,
        "images_per_run": side.images,
        "rounds": len(seconds),
        "seconds": numbers(timings.spread(side.title)),
        "every_second": list(seconds),
        "images_per_second": side.images / timings.spread(side.title).median,
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
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no record: {error}") from error
    if not is_bench(values) or values.get("format") != FORMAT or not isinstance(values.get("measured"), list):
        raise ValueError(f"{path} is no record of `semask bench` of format {FORMAT}; measure once more")
    records = [BenchRecord(path, {**entry, "environment": values.get("environment")}) for entry in values["measured"]]
    for record in records:
        if missing := [name for name in NEEDED if record.values.get(name) is None]:
            raise ValueError(f"{path} is no whole record of `semask bench`: it has no {missing[0]}")
    return records


def is_bench(values: Any) -> bool:
    """Say whether JSON values are those of a measurement of speed."""
    return isinstance(values, Mapping) and values.get("kind") == KIND
