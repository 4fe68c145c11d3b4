"""A class table for labels that have none, derived from their values.

It is safe to assume where the values leave one meaning: 0 and 255 or 0 and 1; two levels with soft edges between them;
ids 0 … k-1 that all occur, with or without 255 for "ignore"; few exact colours; one mask per class. Any other table is
for people to check.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from semask.data.checks.file_stats import LabelStats, PairStats, ReadFailure
from semask.data.checks.scan import scan
from semask.data.classes import MAX_CLASSES, Classes, identity
from semask.data.label_values import COLOUR, grey_levels, name_of
from semask.data.masks import has_mask_per_class
from semask.data.pairs import Pair, Unpaired, existing_masks, find_pairs
from semask.ops.palette import Colour, palette
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE
from semask.text import fold

SAMPLE = 200
"""Labels that a table is derived from, evenly spaced over all; training then checks every label against it."""
FEW = 64
"""Most ids or colours that are classes without doubt; depth maps and photographs have more."""
BINARY = ("background", "foreground")
PEAK, PEAKED = 32, 0.95
"""A mask with soft edges has this share of its pixels within so many levels of 0 and 255."""
FILLED = 2
"""Levels that soft edges have at least in each PEAK levels between; ids and grey codes leave some of these empty."""
SHOWN = 5
BLACK = "#000000"


class Proposal(NamedTuple):
    """A class table, what in the labels shows it, whether the labels leave no other, and a hint or ""."""

    classes: Classes
    reason: str
    safe: bool
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"table": self.classes.to_dict(), "reason": self.reason, "safe": self.safe, "hint": self.hint}


def propose(data: DataRecipe, *, sample: int | None = SAMPLE, workers: int | None = None) -> Proposal:
    """Return the class table that the labels of both splits show: so many of them, or (None) all.

    Raises:
        ValueError: there are no labels, or their values are no classes.
    """
    if has_mask_per_class(data):
        return propose_masks(data)
    pairs: list[Pair] = []
    failures = []
    for split in dict.fromkeys((data.train_split, data.val_split)):
        try:
            pairs += find_pairs(data, split)
        except ValueError as error:
            failures.append(error)
            pairs += error.pairs if isinstance(error, Unpaired) else []
    if not pairs:
        raise failures[0]
    # evenly spaced labels are enough, and the same ones every time
    places = np.linspace(0, len(pairs) - 1, min(sample or len(pairs), len(pairs))).round().astype(int)
    return propose_from(scan([pairs[place] for place in places], data, thorough=False, workers=workers))


def write_command(data: DataRecipe) -> str:
    """Return the command that writes the table that the labels show."""
    default = DataRecipe()
    names = ("kind", "images", "labels", "image_suffix", "label_suffix", "train_split", "val_split")
    flags = "".join(
        f" --data.{name.replace('_', '-')} {shlex.quote(getattr(data, name))}"
        for name in names
        if getattr(data, name).removesuffix("/{split}") != getattr(default, name).removesuffix("/{split}")
    )
    return f"semask doctor {shlex.quote(str(data.root))}{flags} --write-classes"


def propose_masks(data: DataRecipe) -> Proposal:
    """Return the class table of labels that are one mask per class."""
    names = existing_masks(data)
    reason = f"there are masks of {', '.join(names[1:][:SHOWN])}" if names[1:] else "there are no masks of any class"
    return Proposal(Classes(names, palette(len(names)), identity(len(names))), reason, safe=len(names) > 1)


def propose_from(stats: Sequence[PairStats]) -> Proposal:
    """Return the class table that measured labels show.

    Raises:
        ValueError: no label can be read, or their values are no classes.
    """
    labels = [each.label for each in stats if isinstance(each.label, LabelStats)]
    if not labels:
        why = next((f": {each.label.message}" for each in stats if isinstance(each.label, ReadFailure)), "")
        raise ValueError(f"no label can be read{why}")
    counts, colours = _count(labels)
    # grey may be stored in three channels; its levels show soft edges
    levels: Counter[int] = Counter()
    for value, level in zip(counts, grey_levels(np.array([*counts], np.int64)).tolist(), strict=True):
        levels[level] += counts[value]
    # the most frequent values with their shares of the pixels
    lossy = any(label.lossy for label in labels)
    shown = fold([f"{name_of(value)} {count / counts.total():.1%}" for value, count in counts.most_common()], SHOWN)
    if _has_soft_edges(levels, lossy=lossy):
        ranges = {value: int(value > 127) for value in range(256)}
        table = Classes(BINARY, palette(2), ranges, ranges=((0, 127), (128, 255)))
        reason = f"nearly all pixels of the labels lie near 0 and 255, at {len(counts)} values ({shown})"
        return Proposal(table, reason, safe=True)
    if lossy or len(counts) > MAX_CLASSES:
        kind = "JPEG files of" if lossy else "blurred:"
        raise ValueError(f"the labels are {kind} {len(counts)} values ({shown}); save class numbers as 8-bit grey PNG")
    if min(counts) < COLOUR <= max(counts):
        raise ValueError(f"some labels hold colours and others numbers ({shown}); save all in one way")
    return _exact(counts, colours, shown)


def _count(labels: Sequence[LabelStats]) -> tuple[Counter[int], Mapping[int, int]]:
    """Return the pixels of every value, and the palette's colours by value if all labels share one."""
    colour_of: dict[int, set[int]] = {}
    for label in labels:
        for (value, _), colour in zip(label.values, label.palette, strict=False):
            colour_of.setdefault(value, set()).add(colour)
    # palettes that differ: the colours are what labels have in common
    differ = any(len(colours) > 1 for colours in colour_of.values())
    counts: Counter[int] = Counter()
    for label in labels:
        keys = label.palette if differ and label.palette else [value for value, _ in label.values]
        for key, (_, count) in zip(keys, label.values, strict=True):
            counts[key] += count
    shared = not differ and all(label.palette for label in labels)
    return counts, {value: min(colours) for value, colours in colour_of.items()} if shared else {}


def _has_soft_edges(levels: Counter[int], *, lossy: bool) -> bool:
    """Whether nearly all pixels are near 0 or 255, and the others are no ids."""
    if min(levels) < 0 or max(levels) > 255:
        return False
    steps = [[levels[value] for value in range(start, start + PEAK)] for start in range(0, 256, PEAK)]
    low, *between, high = steps
    if not (any(low) and any(high) and sum(low) + sum(high) >= PEAKED * levels.total()):
        return False
    # ids are small, so that they lie near 0 too: the ends must be one level each, of which white may be a light grey
    peaked = 2 * low[0] > sum(low) and 2 * max(high) > sum(high)
    return lossy or (peaked and all(np.count_nonzero(step) >= FILLED for step in between))


def _exact(counts: Counter[int], colours: Mapping[int, int], shown: str) -> Proposal:
    """Return the table with a class for every value."""
    values = sorted(counts)
    by_colour = values[0] >= COLOUR
    # 255 beside small ids means ignore
    ids = [value for value in values if value != IGNORE]
    ignored = {IGNORE: IGNORE} if len(ids) > 1 and max(ids) < FEW else {}
    values = ids if ignored else values
    consecutive = bool(ignored) and ids == list(range(len(ids)))
    names = [name_of(value) if by_colour else f"class {value}" for value in values]
    if len(values) == 2 and values[0] in (0, COLOUR):
        names = [*BINARY]
    # the colours of the labels themselves are the best known
    listed: Sequence[Colour] = palette(len(values))
    packed = [value if by_colour else colours.get(value, 0) for value in values]
    if by_colour or len(set(packed)) == len(packed):
        listed = [(each >> 16 & 0xFF, each >> 8 & 0xFF, each & 0xFF) for each in packed]
    mapped = {value: index for index, value in enumerate(values)} | ignored
    what = "colours" if by_colour else "values"
    # of more than two greys, white may be a class or the 255 that means ignore
    grey = by_colour and max(grey_levels(np.array(values))) < COLOUR
    meant = (by_colour and not (grey and len(values) > 2)) or consecutive or values == [0, 255]
    safe = 1 < len(values) <= FEW and meant
    reason = f"the labels hold {len(counts)} {what} ({shown})"
    hint = ""
    if len(values) > FEW:
        hint = "So many are seldom classes: if edges are soft, draw the labels without antialiasing"
    elif by_colour and BLACK in names:
        hint = (
            f"{BLACK} has {counts[COLOUR] / counts.total():.1%} of the pixels. If it means no label, leave its class "
            f'out of "classes", and write for "labels": {{"{BLACK}": "ignore"}}'
        )
    return Proposal(Classes(tuple(names), tuple(listed), mapped), reason, safe, hint)
