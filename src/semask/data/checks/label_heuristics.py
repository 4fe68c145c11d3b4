"""Heuristics on the values of all labels together: masks of 0 and 255, labels that count from 1, labels reduced twice.

Each label may be valid by itself and the whole wrong all the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from semask.data.checks.file_stats import LabelStats, PairStats
from semask.data.checks.issue import Issue
from semask.data.checks.propose import propose_from
from semask.data.classes import UNKNOWN, Classes, identity
from semask.data.label_values import COLOUR, name_of
from semask.data.masks import BACKGROUND, ClassMasks
from semask.data.pairs import Pair
from semask.structures import IGNORE
from semask.text import fold

VOID_NAMES = ("void", "unlabelled", "unlabeled", "undefined", "unknown", "ignored", "don't care", "dont care")
EVERYWHERE, THIN, ENOUGH = 0.95, 0.25, 10
"""Value 0 resembles "no label" if it is in this share of all labels, covers little of them, and there are enough."""
KEYS = 20
"""Keys of "labels" in a message."""
SOFT = 8
"""More values without a class than these may be soft edges."""


class ValueCounts(NamedTuple):
    """Over all labels: pixels of every value, labels that hold it, and the number of labels."""

    pixels: Counter[int]
    labels: Counter[int]
    total: int

    def holders(self, value: int) -> str:
        """Return how many labels hold a value, as text."""
        return f"{self.labels[value]} of {self.total} labels"


def label_issues(pairs: Sequence[Pair], stats: Sequence[PairStats], classes: Classes) -> Iterator[Issue]:
    """Yield the issues that show in the values of all labels."""
    labels = [(pair, known.label) for pair, known in zip(pairs, stats, strict=True)]
    readable = [(pair, label) for pair, label in labels if isinstance(label, LabelStats)]
    counts = ValueCounts(Counter(), Counter(), len(readable))
    for _, label in readable:
        counts.pixels.update(dict(label.values_for(classes)))
        counts.labels.update(value for value, _ in label.values_for(classes))
    yield from _missing_masks(pairs, classes)
    yield from _other_table(stats, counts, classes)
    yield from _binary_masks(readable, counts, classes)
    yield from list(_counted_from_one(counts, classes)) or _zero_everywhere(counts, classes)
    yield from _reduced(counts, classes)
    # classes that stand for "no label"
    for index, name in enumerate(classes.names):
        if name.strip().casefold() in VOID_NAMES and index in classes.label_map.values():
            message = (
                f"class {index} is called {name!r} and is learnt and scored like any other; if it means no label, "
                'take it out of "classes" and map its value to "ignore"'
            )
            yield Issue("zero", message, severity="warning")
    # more ignored than labelled pixels
    ignored = {v: n for v, n in counts.pixels.items() if classes.label_map.get(v) == IGNORE}
    share = sum(ignored.values()) / max(1, counts.pixels.total())
    if share > 0.5:
        most = max(ignored, key=lambda value: ignored[value])
        message = (
            f"{share:.1%} of all pixels are ignored, most of them of value {name_of(most)}; is that value no class?"
        )
        yield Issue("ignored", message, severity="error" if share == 1 else "warning")


def _missing_masks(pairs: Sequence[Pair], classes: Classes) -> Iterator[Issue]:
    """Report classes whose masks some images lack, where labels are one mask per class."""
    labels = [pair.label for pair in pairs if isinstance(pair.label, ClassMasks)]
    for index, name in enumerate(classes.names):
        absent = [label for label in labels if label.masks[index] is None]
        if absent and name.casefold() != BACKGROUND:
            message = (
                f"{len(absent)} of {len(labels)} images have no mask of {name!r}, such as the image of {absent[0]}; "
                "they are read as without it"
            )
            yield Issue("split", message, severity="warning")


def _other_table(stats: Sequence[PairStats], counts: ValueCounts, classes: Classes) -> Iterator[Issue]:
    """Report colours that no class has, and soft edges, with the "labels" to write."""
    unknown = {value for value in counts.pixels if classes.encode(np.array([value]))[0] == UNKNOWN}
    colours = [value for value in unknown if value >= COLOUR]
    try:
        proposal = propose_from(stats) if colours or len(unknown) > SOFT else None
    except ValueError as error:
        yield Issue("values", str(error))
        return
    if proposal is None or not (colours or proposal.classes.ranges):
        return
    if len(proposal.classes) == len(classes):
        labels = json.dumps(proposal.classes.labels())
        fix = f'write in the class table, with the numbers of its classes: "labels": {labels}'
    else:
        # frequent values first; ranges have no frequency
        common = {name_of(value): count for value, count in counts.pixels.items()}
        keys = sorted(proposal.classes.labels(), key=lambda key: -common.get(key, 0))
        listed = fold([f'"{key}": …' for key in keys], KEYS)
        fix = f'write in the class table, with a class or "ignore" for each: "labels": {{{listed}}}'
        fix += proposal.hint and f". {proposal.hint}"
    yield Issue("values", f"{proposal.reason}; {fix}")


def is_binary(label: LabelStats, classes: Classes) -> bool:
    """Whether a mask for one or two classes holds 255 and otherwise only 0."""
    values = {value for value, _ in label.values}
    return len(classes) <= 2 and 255 in values and values <= {0, 255}


def binary_fix(classes: Classes) -> str:
    """Return the fix of the class table of masks of 0 and 255."""
    if len(classes) == 2:
        return 'if 255 marks the second class, write in the class table: "labels": {"0": 0, "255": 1}'
    return 'name two classes, for 0 and for 255, and write in the class table: "labels": {"0": 0, "255": 1}'


def _binary_masks(labels: Sequence[tuple[Pair, LabelStats]], counts: ValueCounts, classes: Classes) -> Iterator[Issue]:
    """Report masks of 0 and 255 whose 255 is ignored: it probably marks a class."""
    targets = classes.label_map
    if targets.get(255) != IGNORE:
        return
    # no label shows a second class: 255 was meant to be it
    if all(targets.get(value) != 1 for value in counts.pixels):
        masks = [pair.label for pair, label in labels if is_binary(label, classes)]
        if masks:
            more = f" and {len(masks) - 1} more masks hold" if len(masks) > 1 else " holds"
            message = f"this{more} only 0 and 255, and 255 is ignored; {binary_fix(classes)}"
            yield Issue("binary", message, masks[0])
        return
    # among labels of many classes, each mask by itself
    zero = targets.get(0, UNKNOWN)
    means = "is ignored too" if zero == IGNORE else f"counts as {classes.names[zero]!r}" if zero >= 0 else "is none"
    for pair, label in labels:
        if {value for value, _ in label.values} == {0, 255}:
            message = (
                f"only 0 and 255, while other labels hold other values: 255 is ignored and 0 {means}. Is it a mask of "
                "one thing? Then give it class numbers like the others"
            )
            yield Issue("binary", message, pair.label, "warning")


def _counted_from_one(counts: ValueCounts, classes: Classes) -> Iterator[Issue]:
    """Report labels 1 … k under a table of values 0 … k-1."""
    last, targets = len(classes), classes.label_map
    unmapped = [value for value in counts.pixels if value not in targets]
    if any(targets.get(value) != value for value in range(last)) or last not in unmapped:
        return
    # values further beyond are another mistake
    if any(last < value < 254 for value in unmapped):
        return
    absent, otherwise = "value 0 is nowhere", ""
    if 0 in counts.pixels:
        absent = f"value 0 is in {counts.holders(0)}"
        otherwise = (
            f'. Or does {last} mean that there is no label? Then write "labels": {{"{last}": "ignore"}}; else the '
            "table lacks a class"
        )
    yield Issue(
        "zero",
        f"values go up to {last} for {last} classes, and {absent}. Do they count from 1, so that every class is read "
        f'as the next? Then write in the class table: "labels": {{"0": "ignore", "1": 0, … "{last}": {last - 1}}}'
        f"{otherwise}",
    )


def _reduced(counts: ValueCounts, classes: Classes) -> Iterator[Issue]:
    """Report labels from which 1 was subtracted before, once too often or where the table does it as well."""
    targets, last = classes.label_map, len(classes)
    if 254 in counts.pixels and targets.get(254, UNKNOWN) in (UNKNOWN, IGNORE) and last < 254:
        yield Issue(
            "zero",
            f"value 254 is in {counts.holders(254)}: subtracting 1 in 8 bits turns 255 into it. If that was done to "
            "make 0 the first class, 255 stands for the former 0, and the class table must not drop 0 again; "
            'write "254": "ignore" in its "labels"',
            severity="error" if 254 not in targets else "warning",
        )
    shifted = targets.get(0) == IGNORE and all(targets.get(value + 1) == value for value in range(last))
    if shifted and 255 in counts.pixels and 0 in counts.pixels and last not in counts.pixels:
        yield Issue(
            "zero",
            f"the class table ignores value 0, while 255 is in {counts.holders(255)} and {last}, the last class, is "
            "nowhere: have the files been reduced by 1 already? Then every class is off by one; "
            'leave "labels" out of the class table',
            severity="warning",
        )


def _zero_everywhere(counts: ValueCounts, classes: Classes) -> Iterator[Issue]:
    """Report a class 0 that resembles "no label", a little of it in nearly every label, if the table has no labels."""
    targets = {value: target for value, target in classes.label_map.items() if value < COLOUR}
    named = classes.names[0].casefold() == BACKGROUND
    if named or targets != identity(len(classes)) or len(classes) <= 2 or counts.total < ENOUGH:
        return
    name, share = classes.names[0], counts.pixels[0] / max(1, counts.pixels.total())
    message = ""
    if counts.labels[0] == 0:
        message = f"value 0, {name!r}, is in no label: do the values count from 1? Check that the names fit them"
    elif counts.labels[0] >= EVERYWHERE * counts.total and share < THIN:
        message = (
            f"value 0 is in {counts.holders(0)}, {share:.1%} of all pixels, and counts as {name!r}; if it means that "
            'there is no label, write in the class table: "labels": {"0": "ignore", …}'
        )
    if message:
        yield Issue("zero", message, severity="warning")
