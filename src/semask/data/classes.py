"""Class tables: names, colours, and the meaning of the values in a label file.

A table is packaged (`semask.data.classes.packaged()` lists them) or a JSON file:

    {
      "classes": [{"name": "sky", "colour": [128, 128, 128]}, {"name": "road", "colour": "#804080"}],
      "labels": {"0": "sky", "1": "road", "11": "ignore"}
    }

`classes` may also be a plain list of names; colours are then generated, always the same ones. `labels` maps a value in
the label files to a class, by its name or its number in the list, or to "ignore". A value is a number, a range of them
("0-127", for antialiased and JPEG masks) or a colour ("#804080"); values that are not listed are errors. Without
`labels`, value i is class i, 255 is ignored, and pixels of colour label files are read by the colours of the classes;
`labels` that only ignore values add to that; where they ignore colours and every class has its own, colours alone
count. `ids`, a list of one number per class, are those of the dataset's own tools, where label files have others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Int64, Integer

from semask.data.label_values import (
    COLOUR,
    LARGEST,
    LOWEST,
    MAX_VALUE,
    grey_levels,
    name_of,
    pack_colours,
    parse_colour,
    parse_key,
    runs,
)
from semask.files import parse_json
from semask.ops.palette import Colour, palette
from semask.structures import IGNORE
from semask.text import fold

UNKNOWN = -1
"""The entry of `Classes.lookup` for source values outside the label map."""
MAX_CLASSES = IGNORE
RECORD = "recipe.json"
"""The file of a checkpoint that holds its class table."""
SHOWN = 24
"""Values in a line of text."""
NAME, COLOUR_KEYS = "name", ("colour", "color")
"""Keys of a class in a table."""


@dataclass(frozen=True)
class Classes:
    """Names and colours (RGB, 0 … 255) of the classes, and label_map: source value → class number or `IGNORE`.

    ids: the number of every class in the dataset's own tools; None are the values of label files.
    ranges: the first and last of values that the table gives as one; such a table reads JPEG labels, too.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    label_map: dict[int, int]
    ids: tuple[int, ...] | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        names, count = self.names, len(self.names)
        if not 1 <= count <= MAX_CLASSES:
            raise ValueError(f"a class table has 1 … {MAX_CLASSES} classes ({IGNORE} means ignore), not {count}")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            times = names.count(repeated[0])
            raise ValueError(f"class name {repeated[0]!r} is given {times} times; names must differ")
        if "ignore" in names:
            raise ValueError('a class cannot be named "ignore": in "labels" that word drops a value; rename it')
        # colours
        if len(self.colours) != count:
            raise ValueError(f"{count} classes but {len(self.colours)} colours; give one colour per class")
        for name, colour in zip(names, self.colours, strict=True):
            _check_colour(colour, name)
        # label map
        for value, target in self.label_map.items():
            if not LOWEST <= value <= LARGEST:
                raise ValueError(f"labels: source value {value} is outside {LOWEST} … {LARGEST}")
            if not (0 <= target < count or target == IGNORE):
                raise ValueError(
                    f"labels: value {value} maps to class {target}, but the classes are 0 … {count - 1}; "
                    f'give one of them, its name, or "ignore"'
                )
        # ids of the dataset's own tools
        if self.ids is not None:
            if len(self.ids) != count or len(set(self.ids)) != count:
                raise ValueError(f"ids: {len(set(self.ids))} different numbers for {count} classes; give one per class")
            if bad := [value for value in self.ids if type(value) is not int or not 0 <= value <= MAX_VALUE]:
                raise ValueError(f"ids: {bad[0]!r} is no number from 0 to {MAX_VALUE}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Classes:
        """Read a packaged table by its name, a JSON file, or the table of a checkpoint by its folder."""
        path, name = Path(name_or_path), str(name_or_path)
        if (path / RECORD).is_file():
            try:
                return cls.from_dict(json.loads((path / RECORD).read_text(encoding="utf-8"))["classes"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path / RECORD}: no class table of a checkpoint ({error}); give a JSON file"
                ) from error
        # a file of the user
        if path.suffix == ".json" or path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}: cannot read the class table ({error}); give a JSON file or one of {', '.join(packaged())}"
                ) from error
            return cls.from_text(text, source=name)
        # a packaged table
        allowed = packaged()
        if name not in allowed:
            near = get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"no class table {name!r}; {hint}packaged are {', '.join(allowed)}; or give the path of a JSON file"
            )
        text = resources.files("semask.data").joinpath("classes", f"{name}.json").read_text(encoding="utf-8")
        return cls.from_text(text, source=f"{name} (packaged)")

    @classmethod
    def from_text(cls, text: str, *, source: str) -> Classes:
        """Build a table from the text of a JSON file.

        Raises:
            ValueError: as for `from_dict`; the message names the `source`.
        """
        try:
            return cls.from_dict(parse_json(text, unique=True))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Classes:
        """Build a table from the JSON form of the module's docstring.

        Raises:
            ValueError: a key, name, colour or label is invalid.
        """
        entries = record.get("classes") if isinstance(record, Mapping) else None
        if not isinstance(entries, list) or not entries:
            raise ValueError('a class table needs "classes": a list of names or of {"name": …, "colour": [r, g, b]}')
        if surplus := set(record) - {"classes", "labels", "ids"}:
            raise ValueError(
                f'unknown key {min(surplus)!r} in the class table; allowed are "classes", "labels" and "ids"'
            )
        # names and colours
        names, listed = [], []
        for entry in entries:
            name, colour = _parse_class(entry)
            names.append(name)
            listed.append(colour)
        colours = (colour or own for colour, own in zip(listed, palette(len(names)), strict=True))
        # ids and label values
        ids = record.get("ids")
        if ids is not None and not isinstance(ids, list):
            raise ValueError(f"ids: expected a list of one number per class, got {ids!r}")
        label_map, ranges = _parse_labels(record.get("labels"), tuple(names), listed)
        return cls(tuple(names), tuple(colours), label_map, None if ids is None else tuple(ids), ranges)

    def numbers(self, names: Sequence[str], flag: str) -> tuple[int, ...]:
        """Return the numbers of classes by their names, which a flag gave.

        Raises:
            ValueError: there is no such class.
        """
        for name in names:
            if name not in self.names:
                near = get_close_matches(name, self.names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(self.names[:20])}"
                raise ValueError(f"{flag} {name!r} is no class; {hint}")
        return tuple(self.names.index(name) for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; `from_dict` restores an equal table."""
        entries = [{"name": n, "colour": list(c)} for n, c in zip(self.names, self.colours, strict=True)]
        record: dict[str, Any] = {"classes": entries, "labels": self.labels()}
        return record if self.ids is None else {**record, "ids": list(self.ids)}

    def labels(self) -> dict[str, int | str]:
        """Return the label map as JSON writes it."""
        last = dict(self.ranges)
        within = {value for first, end in self.ranges for value in range(first + 1, end + 1)}
        return {
            f"{value}-{last[value]}" if value in last else name_of(value): "ignore" if target == IGNORE else target
            for value, target in sorted(self.label_map.items())
            if value not in within
        }

    def to_text(self) -> str:
        """Return the JSON form for people to read and edit: a class a line, and "labels" unless value i is class i."""
        entries = [
            json.dumps(
                {"name": name, "colour": name_of(int(pack_colours(np.array(colour, np.uint8))))}, ensure_ascii=False
            )
            for name, colour in zip(self.names, self.colours, strict=True)
        ]
        listed = ",\n    ".join(entries)
        plain = self.label_map == identity(len(self))
        labels = "" if plain else f',\n  "labels": {json.dumps(self.labels())}'
        return f'{{\n  "classes": [\n    {listed}\n  ]{labels}\n}}\n'

    def describe(self) -> str:
        """Return the meaning of the values of label files in a line."""
        keys = {key: target for key, target in self.labels().items() if self.by_colour or key[0] != "#"}
        # runs of consecutive values for consecutive classes
        found: list[list[tuple[str, int]]] = []
        before = None
        for key, target in ((key, target) for key, target in keys.items() if isinstance(target, int)):
            number = None if key[0] == "#" or "-" in key[1:] else int(key) - target
            if number is not None and before == (number, target - 1):
                found[-1].append((key, target))
            else:
                found.append([(key, target)])
            before = (number, target)
        parts = []
        for (first, first_class), *rest in found:
            # classes without a name of their own are called by their colour
            text = " ".join(dict.fromkeys((first, self.names[first_class])))
            if rest:
                last, last_class = rest[-1]
                text = f"{first} … {last} {self.names[first_class]} … {self.names[last_class]}"
            parts.append(text)
        ignored = [key for key, target in keys.items() if target == "ignore"]
        ending = f"; {fold(ignored, SHOWN)} ignored" if ignored else ""
        return f"label values: {fold(parts, SHOWN, '; ')}{ending}; others are errors"

    @cached_property
    def by_colour(self) -> bool:
        """Whether colours alone mean classes, so that palette files are read by their colours and not by indices."""
        return all(value >= COLOUR or target == IGNORE for value, target in self.label_map.items())

    @cached_property
    def lookup(self) -> Int16[np.ndarray, " values"]:
        """The class, `IGNORE` or `UNKNOWN` of every possible source value."""
        table = np.full(MAX_VALUE + 1, UNKNOWN, np.int16)
        for value, target in self.label_map.items():
            if 0 <= value <= MAX_VALUE:
                table[value] = target
        return table

    def encode(self, source: Integer[np.ndarray, "h w"]) -> Int16[np.ndarray, "h w"]:
        """Return the class of every pixel of a label file: 0 … k-1, `IGNORE` or `UNKNOWN`."""
        if source.dtype == np.uint8:
            # 8-bit files index the table directly
            encoded: np.ndarray = self.lookup[:256].take(source)
            return encoded
        # other labels are encoded run by run, as there are far fewer runs than pixels
        values, lengths = runs(source)
        if self.ranges and max(self.label_map) < COLOUR:
            values = grey_levels(values)
        found = self.lookup[np.clip(values, 0, MAX_VALUE)]
        # colours, signed and 32-bit values, such as -9999 for "no data"
        wide, targets = self._wide
        place = np.searchsorted(wide, values).clip(max=len(wide) - 1)
        beyond = (values < 0) | (values > MAX_VALUE)
        found = np.where(beyond, np.where(wide[place] == values, targets[place], np.int16(UNKNOWN)), found)
        return np.repeat(found, lengths).reshape(source.shape)

    @cached_property
    def _wide(self) -> tuple[Int64[np.ndarray, " n"], Int16[np.ndarray, " n"]]:
        """Values beyond `lookup` in order, with their targets; the first is below any value."""
        listed = sorted((value, target) for value, target in self.label_map.items() if not 0 <= value <= MAX_VALUE)
        values, targets = zip((2 * LOWEST, UNKNOWN), *listed, strict=True)
        return np.array(values, np.int64), np.array(targets, np.int16)

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The value of every class in label files, the smallest if it has several; -1 for one that has none."""
        mapped: dict[int, int] = {}
        for value, target in self.label_map.items():
            if 0 <= value <= MAX_VALUE:  # those that a file of predictions can hold
                mapped[target] = min(value, mapped.get(target, value))
        return tuple(mapped.get(target, -1) for target in range(len(self.names)))

    @property
    def official_ids(self) -> tuple[int, ...]:
        """The number of every class in the dataset's own tools: `ids`, or the values of label files."""
        return self.values if self.ids is None else self.ids


def identity(num_classes: int) -> dict[int, int]:
    """Return the label map of files that already hold class numbers, with 255 for ignore."""
    return {**{value: value for value in range(num_classes)}, IGNORE: IGNORE}


def packaged() -> list[str]:
    """Return the names of the packaged tables."""
    folder = resources.files("semask.data").joinpath("classes")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def _check_colour(colour: object, name: str) -> None:
    if not isinstance(colour, (list, tuple)) or len(colour) != 3:
        raise ValueError(f'classes: colour {colour!r} of {name!r} is neither [r, g, b] nor "#rrggbb"')
    if not all(type(part) is int and 0 <= part <= 255 for part in colour):
        raise ValueError(f"colour {list(colour)} of {name!r}: the three parts are whole numbers from 0 to 255")


def _parse_class(entry: object) -> tuple[str, Colour | None]:
    """Return name and colour of an entry of "classes": a name, or an object."""
    record: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {NAME: entry}
    name, given = record.get(NAME), [key for key in COLOUR_KEYS if key in record]
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'classes: {entry!r} has no name; give "name" or {{"name": "road", "colour": [128, 64, 128]}}')
    allowed = (NAME, *COLOUR_KEYS)
    if surplus := [key for key in record if key not in allowed]:
        near = get_close_matches(surplus[0], allowed, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"classes: unknown key {surplus[0]!r} of {name!r}; {hint}allowed are {', '.join(allowed)}")
    if len(given) > 1:
        raise ValueError(f"classes: {name!r} has {' and '.join(given)}; keep one of them")
    if not given:
        return name, None
    colour = record[given[0]]
    colour = (parse_colour(colour) if isinstance(colour, str) else None) or colour
    _check_colour(colour, name)
    red, green, blue = colour
    return name, (red, green, blue)


def _parse_labels(
    labels: object, names: tuple[str, ...], colours: Sequence[Colour | None]
) -> tuple[dict[int, int], tuple[tuple[int, int], ...]]:
    """Return the label map of "labels", by names or numbers of classes, and its ranges; `colours` are those given."""
    # colours that two classes share mean neither
    own = {
        int(pack_colours(np.array(colour, np.uint8))): index
        for index, colour in enumerate(colours)
        if colour is not None and colours.count(colour) == 1
    }
    if labels is None:
        return identity(len(names)) | own, ()
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError('labels: expected an object like {"0": "sky", "11": "ignore"}')
    listed: dict[int, int] = {}
    ranges = []
    for key, target in labels.items():
        first, last = parse_key(str(key))
        if twice := [value for value in range(first, last + 1) if value in listed]:
            raise ValueError(f"labels: {name_of(twice[0])} is given twice, once as {key!r}; keep one")
        listed |= dict.fromkeys(range(first, last + 1), _parse_target(key, target, names))
        ranges += [(first, last)] if last > first else []
    if any(target != IGNORE for target in listed.values()):
        return listed, tuple(sorted(ranges))
    # a table that only ignores keeps value i for class i, or, where it ignores colours, the colours of all classes
    base = own if max(listed) >= COLOUR else {}
    base = base if len(base) == len(names) else identity(len(names)) | base
    return base | listed, tuple(sorted(ranges))


def _parse_target(key: object, target: object, names: tuple[str, ...]) -> int:
    if target == "ignore":
        return IGNORE
    if isinstance(target, str):
        if target not in names:
            near = get_close_matches(target, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(names[:8])} …"
            raise ValueError(f"labels: value {key} maps to {target!r}, which is no class; {hint}")
        return names.index(target)
    if isinstance(target, bool) or not isinstance(target, int):
        raise ValueError(f'labels: value {key} maps to {target!r}; give a class number, its name, or "ignore"')
    return target
