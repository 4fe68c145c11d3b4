"""Class tables: names, colours, and what the values in a label file mean.

A table is packaged (`semask.data.classes.packaged()` lists them) or a JSON file:

    {
      "classes": [{"name": "sky", "colour": [128, 128, 128]}, {"name": "road", "colour": [128, 64, 128]}],
      "labels": {"0": "sky", "1": "road", "11": "ignore"}
    }

`classes` may also be a plain list of names; the colours are then made up, always the same ones. `labels` maps a value
in the label files to a class, by its name or its number in the list, or to "ignore". Values it does not list are
errors. Without `labels`, value i is class i and 255 is ignored; `labels` that only ignore values add to that.
`ids`, a list of one number per class, are those of the dataset's own tools, where label files have others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Integer

from semask.structures import IGNORE

Colour = tuple[int, int, int]

UNKNOWN = -1
"""What `Classes.lookup` holds for source values that the label map does not list."""
MAX_CLASSES = IGNORE
MAX_VALUE = 65535
"""The largest value a label file can hold [16 bit]."""


@dataclass(frozen=True)
class Classes:
    """Names and colours (RGB, 0 … 255) of the classes, and label_map: source value → class number or `IGNORE`.

    ids: the number of every class in the dataset's own tools; None are the values of label files.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    label_map: dict[int, int]
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_names(self.names)
        _check_colours(self.names, self.colours)
        for value, target in self.label_map.items():
            if not 0 <= value <= MAX_VALUE:
                raise ValueError(f"labels: source value {value} is outside 0 … {MAX_VALUE}")
            if not (0 <= target < len(self.names) or target == IGNORE):
                raise ValueError(
                    f"labels: value {value} maps to class {target}, but the classes are 0 … {len(self.names) - 1}; "
                    f'give one of them, its name, or "ignore"'
                )
        if self.ids is not None:
            _check_ids(self.ids, self.names)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Classes:
        """Read a packaged table by its name, or a JSON file."""
        path = Path(name_or_path)
        if path.suffix != ".json" and not path.is_file():
            return cls.from_text(_packaged(str(name_or_path)), source=f"{name_or_path} (packaged)")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path}: cannot read the class table ({error}); give a JSON file or one of {', '.join(packaged())}"
            ) from error
        return cls.from_text(text, source=str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str) -> Classes:
        """Build a table from the text of a JSON file; a ValueError names its `source`."""
        try:
            return cls.from_dict(json.loads(text, object_pairs_hook=_unique))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}: {error}") from error

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Classes:
        """Build a table from the JSON form told above.

        Raises:
            ValueError: a key, name, colour or label is not what it should be; the message says which.
        """
        entries = record.get("classes") if isinstance(record, Mapping) else None
        if not isinstance(entries, list) or not entries:
            raise ValueError('a class table needs "classes": a list of names or of {"name": …, "colour": [r, g, b]}')
        if surplus := set(record) - {"classes", "labels", "ids"}:
            raise ValueError(
                f'unknown key {min(surplus)!r} in the class table; allowed are "classes", "labels" and "ids"'
            )
        names = tuple(_name(entry) for entry in entries)
        _check_names(names)
        made_up = palette(len(names))
        colours = tuple(_colour(entry, default) for entry, default in zip(entries, made_up, strict=True))
        return cls(names, colours, _label_map(record.get("labels"), names), _ids(record.get("ids")))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; `from_dict` restores an equal table."""
        entries = [{"name": n, "colour": list(c)} for n, c in zip(self.names, self.colours, strict=True)]
        labels = {str(v): "ignore" if t == IGNORE else t for v, t in sorted(self.label_map.items())}
        record: dict[str, Any] = {"classes": entries, "labels": labels}
        return record if self.ids is None else {**record, "ids": list(self.ids)}

    def describe(self) -> str:
        """Return in a line which values of label files mean which classes, and which are ignored."""
        classes = sorted((value, target) for value, target in self.label_map.items() if target != IGNORE)
        runs: list[list[tuple[int, int]]] = []
        for value, target in classes:
            if runs and (value - 1, target - 1) == runs[-1][-1]:
                runs[-1].append((value, target))
            else:
                runs.append([(value, target)])
        said = [_span([value for value, _ in run], [self.names[target] for _, target in run]) for run in runs]
        ignored = sorted(value for value, target in self.label_map.items() if target == IGNORE)
        said += [f"{', '.join(map(str, ignored))} ignored"] if ignored else []
        return f"label values: {'; '.join(said)}; others are errors"

    @cached_property
    def lookup(self) -> Int16[np.ndarray, " values"]:
        """The class, `IGNORE` or `UNKNOWN` of every possible source value."""
        table = np.full(MAX_VALUE + 1, UNKNOWN, np.int16)
        for value, target in self.label_map.items():
            table[value] = target
        return table

    def encode(self, source: Integer[np.ndarray, "h w"]) -> Int16[np.ndarray, "h w"]:
        """Return the class of every pixel of a label file: 0 … k-1, `IGNORE` or `UNKNOWN`."""
        if source.dtype == np.uint8:
            encoded: np.ndarray = self.lookup[:256].take(source)
            return encoded
        found = self.lookup[np.clip(source, 0, MAX_VALUE)]
        return np.where((source < 0) | (source > MAX_VALUE), np.int16(UNKNOWN), found)

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The value of every class in label files, the smallest if it has several; -1 for one that has none."""
        mapped: dict[int, int] = {}
        for value, target in self.label_map.items():
            mapped[target] = min(value, mapped.get(target, value))
        return tuple(mapped.get(target, -1) for target in range(len(self.names)))

    @property
    def official_ids(self) -> tuple[int, ...]:
        """The number of every class in the dataset's own tools: `ids`, or the values of label files."""
        return self.values if self.ids is None else self.ids


def _span(values: list[int], names: list[str]) -> str:
    if len(values) == 1:
        return f"{values[0]} {names[0]}"
    return f"{values[0]} … {values[-1]} {names[0]} … {names[-1]}"


def identity(num_classes: int) -> dict[int, int]:
    """Return the label map of files that already hold class numbers, with 255 for ignore."""
    return {**{value: value for value in range(num_classes)}, IGNORE: IGNORE}


@cache
def palette(count: int) -> tuple[Colour, ...]:
    """Return `count` ≤ 255 colours far apart: each the grid colour farthest from black, white and those before."""
    levels = np.linspace(0, 255, 7).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.minimum(np.square(grid).sum(1), np.square(grid - 255).sum(1))
    colours: list[Colour] = []
    for _ in range(count):
        chosen = grid[distance.argmax()]
        distance = np.minimum(distance, np.square(grid - chosen).sum(1))
        colours.append((int(chosen[0]), int(chosen[1]), int(chosen[2])))
    return tuple(colours)


def packaged() -> list[str]:
    """Return the names of the packaged tables."""
    folder = resources.files("semask.data").joinpath("classes")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def _packaged(name: str) -> str:
    allowed = packaged()
    if name not in allowed:
        near = get_close_matches(name, allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no class table {name!r}; {hint}packaged are {', '.join(allowed)}; your own is the path of a .json file"
        )
    return resources.files("semask.data").joinpath("classes", f"{name}.json").read_text(encoding="utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse JSON objects that give one key twice: Python would keep the last in silence."""
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice; keep one")
    return record


def _name(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'classes: {entry!r} has no name; give "name" or {{"name": "road", "colour": [128, 64, 128]}}')
    return name


def _colour(entry: object, default: Colour) -> Colour:
    if not isinstance(entry, Mapping) or "colour" not in entry:
        return default
    colour = entry["colour"]
    if not isinstance(colour, list) or len(colour) != 3:
        raise ValueError(f"classes: colour {colour!r} of {entry['name']!r} is no list of three numbers [r, g, b]")
    return colour[0], colour[1], colour[2]


def _label_map(labels: object, names: tuple[str, ...]) -> dict[int, int]:
    if labels is None:
        return identity(len(names))
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError('labels: expected an object like {"0": "sky", "11": "ignore"}')
    listed = {_value(value): _target(value, target, names) for value, target in labels.items()}
    only_ignores = all(target == IGNORE for target in listed.values())
    return identity(len(names)) | listed if only_ignores else listed


def _value(value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"labels: {value!r} is no pixel value; keys are whole numbers from 0 to {MAX_VALUE}")
    return int(text)


def _target(value: object, target: object, names: tuple[str, ...]) -> int:
    if target == "ignore":
        return IGNORE
    if isinstance(target, str):
        if target not in names:
            near = get_close_matches(target, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(names[:8])} …"
            raise ValueError(f"labels: value {value} maps to {target!r}, which is no class; {hint}")
        return names.index(target)
    if isinstance(target, bool) or not isinstance(target, int):
        raise ValueError(f'labels: value {value} maps to {target!r}; give a class number, its name, or "ignore"')
    return target


def _ids(ids: object) -> tuple[int, ...] | None:
    if ids is None:
        return None
    if not isinstance(ids, list):
        raise ValueError(f"ids: expected a list of one number per class, got {ids!r}")
    return tuple(ids)


def _check_ids(ids: tuple[int, ...], names: tuple[str, ...]) -> None:
    if len(ids) != len(names) or len(set(ids)) != len(ids):
        raise ValueError(f"ids: {len(set(ids))} different numbers for {len(names)} classes; give one per class")
    if bad := [value for value in ids if type(value) is not int or not 0 <= value <= MAX_VALUE]:
        raise ValueError(f"ids: {bad[0]!r} is no number from 0 to {MAX_VALUE}")


def _check_names(names: tuple[str, ...]) -> None:
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"a class table has 1 … {MAX_CLASSES} classes ({IGNORE} means ignore), not {len(names)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"class name {repeated[0]!r} is given {names.count(repeated[0])} times; names must differ")
    if "ignore" in names:
        raise ValueError('a class cannot be named "ignore": in "labels" that word drops a value; choose another name')


def _check_colours(names: tuple[str, ...], colours: tuple[Colour, ...]) -> None:
    if len(colours) != len(names):
        raise ValueError(f"{len(names)} classes but {len(colours)} colours; give one colour per class")
    for name, colour in zip(names, colours, strict=True):
        if len(colour) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in colour):
            raise ValueError(f"colour {list(colour)} of {name!r}: the three parts are whole numbers from 0 to 255")
