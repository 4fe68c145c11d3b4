"""What the values of all labels together give away: masks of 0 and 255, labels that count from 1, labels reduced twice.

Each label may be valid by itself and the whole wrong all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from semask.data.checks.file_stats import LabelFacts, PairFacts
from semask.data.checks.issue import Problem
from semask.data.classes import UNKNOWN, Classes, identity
from semask.data.pairs import Pair
from semask.structures import IGNORE

BINARY_HINT = 'if 255 marks the second class, say so in the class table: "labels": {"0": 0, "255": 1}'
SINGLE_HINT = 'name two classes, what 0 is and what 255 is, and say in the class table: "labels": {"0": 0, "255": 1}'
VOID_NAMES = ("void", "unlabelled", "unlabeled", "undefined", "unknown", "ignored", "don't care", "dont care")
EVERYWHERE, THIN, ENOUGH = 0.95, 0.25, 10
"""Value 0 looks like "no label" if it is in this share of all labels, little of them, and there are enough."""


class ValueCounts(NamedTuple):
    """Over all labels: pixels of every value, labels that hold it, and how many labels there are."""

    pixels: Counter[int]
    labels: Counter[int]
    total: int


def suspicions(pairs: Sequence[Pair], facts: Sequence[PairFacts], classes: Classes) -> Iterator[Problem]:
    """Yield what the values of all labels give away."""
    labels = [known.label for known in facts if isinstance(known.label, LabelFacts)]
    counts = _counted(labels)
    yield from _binary(pairs, facts, counts, classes)
    yield from list(_counted_from_one(counts, classes)) or _zero_everywhere(counts, classes)
    yield from _reduced(counts, classes)
    yield from _void_classes(classes)
    yield from _mostly_ignored(counts, classes)


def is_binary(label: LabelFacts, classes: Classes) -> bool:
    """Whether a mask for one or two classes holds 255 and nothing else but 0."""
    values = {value for value, _ in label.values}
    return len(classes) <= 2 and 255 in values and values <= {0, 255}


def binary_hint(classes: Classes) -> str:
    """Return how to mend the class table of masks of 0 and 255."""
    return BINARY_HINT if len(classes) == 2 else SINGLE_HINT


def _counted(labels: Sequence[LabelFacts]) -> ValueCounts:
    pixels: Counter[int] = Counter()
    holders: Counter[int] = Counter()
    for label in labels:
        for value, count in label.values:
            pixels[value] += count
            holders[value] += 1
    return ValueCounts(pixels, holders, len(labels))


def _target(value: int, classes: Classes) -> int:
    return classes.label_map.get(value, UNKNOWN)


def _binary(
    pairs: Sequence[Pair], facts: Sequence[PairFacts], counts: ValueCounts, classes: Classes
) -> Iterator[Problem]:
    """Tell masks of 0 and 255 whose 255 is ignored, where no second class is to be seen: 255 was meant to be it."""
    if _target(255, classes) != IGNORE:
        return
    if any(_target(v, classes) == 1 for v in counts.pixels):
        yield from _binary_among_others(pairs, facts, classes)
        return
    suspects = [
        pair.label
        for pair, known in zip(pairs, facts, strict=True)
        if isinstance(known.label, LabelFacts) and is_binary(known.label, classes)
    ]
    if suspects:
        more = f" and {len(suspects) - 1} more masks hold" if len(suspects) > 1 else " holds"
        yield Problem("binary", f"this{more} only 0 and 255, and 255 is ignored; {binary_hint(classes)}", suspects[0])


def _binary_among_others(pairs: Sequence[Pair], facts: Sequence[PairFacts], classes: Classes) -> Iterator[Problem]:
    """Tell masks of 0 and 255 among labels of many classes: what they mark is ignored, and all else is class 0."""
    for pair, known in zip(pairs, facts, strict=True):
        if isinstance(known.label, LabelFacts) and {value for value, _ in known.label.values} == {0, 255}:
            zero = _target(0, classes)
            what = (
                "is ignored too" if zero == IGNORE else f"counts as {classes.names[zero]!r}" if zero >= 0 else "is none"
            )
            yield Problem(
                "binary",
                f"only 0 and 255, while other labels hold other values: 255 is ignored and 0 {what}. Is it a mask of "
                "one thing? Then make it a label like the others",
                pair.label,
                grave=False,
            )


def _counted_from_one(counts: ValueCounts, classes: Classes) -> Iterator[Problem]:
    """Tell labels 1 … k under a table of values 0 … k-1."""
    last = len(classes)
    plain = all(_target(value, classes) == value for value in range(last))
    if not plain or _target(last, classes) != UNKNOWN or last not in counts.pixels:
        return
    if any(value > last for value in counts.pixels if _target(value, classes) == UNKNOWN and value < 254):
        return
    if 0 in counts.pixels:
        absent = f"value 0 is in {_labels(counts, 0)}"
        otherwise = (
            f'. Or does {last} mean that there is no label? Then say "labels": {{"{last}": "ignore"}}; else the table '
            "lacks a class"
        )
    else:
        absent, otherwise = "value 0 is nowhere", ""
    yield Problem(
        "zero",
        f"values go up to {last} for {last} classes, and {absent}. Do they count from 1, so that every class is taken "
        f'for the next? Then say in the class table: "labels": {{"0": "ignore", "1": 0, … "{last}": {last - 1}}}'
        f"{otherwise}",
    )


def _reduced(counts: ValueCounts, classes: Classes) -> Iterator[Problem]:
    """Tell labels from which 1 was subtracted before, once too often or where the table does it as well."""
    if 254 in counts.pixels and _target(254, classes) in (UNKNOWN, IGNORE) and len(classes) < 254:
        yield Problem(
            "zero",
            f"value 254 is in {_labels(counts, 254)}: it is what subtracting 1 in 8 bits leaves of 255. If that was "
            "done to make 0 the first class, 255 is what was 0, and the class table must not drop 0 again; "
            'say "254": "ignore" in its "labels"',
            grave=_target(254, classes) == UNKNOWN,
        )
    shifted = _target(0, classes) == IGNORE and all(_target(v + 1, classes) == v for v in range(len(classes)))
    if shifted and 255 in counts.pixels and 0 in counts.pixels and len(classes) not in counts.pixels:
        yield Problem(
            "zero",
            f"the class table ignores value 0, while 255 is in {_labels(counts, 255)} and {len(classes)}, the last "
            "class, is nowhere: have the files been reduced by 1 already? Then every class is off by one; "
            'leave "labels" out of the class table',
            grave=False,
        )


def _zero_everywhere(counts: ValueCounts, classes: Classes) -> Iterator[Problem]:
    """Tell a class 0 that looks like "no label", a little of it in nearly every label, if the table is silent on it."""
    if classes.label_map != identity(len(classes)) or len(classes) <= 2 or counts.total < ENOUGH:
        return
    share = counts.pixels[0] / max(1, counts.pixels.total())
    if counts.labels[0] == 0:
        yield Problem(
            "zero",
            f"value 0, {classes.names[0]!r}, is in no label: do the values count from 1? See that the names fit them",
            grave=False,
        )
    elif counts.labels[0] >= EVERYWHERE * counts.total and share < THIN:
        yield Problem(
            "zero",
            f"value 0 is in {_labels(counts, 0)}, {share:.1%} of all pixels, and counts as {classes.names[0]!r}; if it "
            'means that there is no label, say so in the class table: "labels": {"0": "ignore", …}',
            grave=False,
        )


def _void_classes(classes: Classes) -> Iterator[Problem]:
    for index, name in enumerate(classes.names):
        if name.strip().casefold() in VOID_NAMES and index in classes.label_map.values():
            yield Problem(
                "zero",
                f"class {index} is called {name!r} and is learnt and scored like any other; if it means no label, take "
                'it out of "classes" and map its value to "ignore"',
                grave=False,
            )


def _mostly_ignored(counts: ValueCounts, classes: Classes) -> Iterator[Problem]:
    total = counts.pixels.total()
    ignored = {v: n for v, n in counts.pixels.items() if _target(v, classes) == IGNORE}
    if total and sum(ignored.values()) > total / 2:
        most = max(ignored, key=lambda value: ignored[value])
        nothing = sum(ignored.values()) == total
        yield Problem(
            "ignored",
            f"{sum(ignored.values()) / total:.1%} of all pixels are ignored, most of them of value {most}; "
            "is that value no class?",
            grave=nothing,
        )


def _labels(counts: ValueCounts, value: int) -> str:
    return f"{counts.labels[value]} of {counts.total} labels"
