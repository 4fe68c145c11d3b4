"""Looking through a dataset before training: everything wrong in it, by file, and how to mend it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from semask.data.checks.class_counts import count_classes
from semask.data.checks.file_stats import ImageFacts, LabelFacts, PairFacts, Unread
from semask.data.checks.issue import Problem
from semask.data.checks.label_heuristics import binary_hint, is_binary, suspicions
from semask.data.checks.survey import survey
from semask.data.classes import UNKNOWN, Classes
from semask.data.dataset import classes_of
from semask.data.pairs import Pair, find_pairs
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

logger = logging.getLogger(__name__)

SHOWN = 20
"""Problems in a message."""
SHOWN_VALUES = 5
"""Unknown label values told per file."""
MIRRORED = 2
"""EXIF orientations from here on change a picture; those from 5 on swap its sides."""


@dataclass(frozen=True)
class Report:
    """What a dataset holds and what is wrong with it."""

    pairs: int
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    pixels: Int64[np.ndarray, " k"]
    """Pixels of every class, over the labels that could be read."""
    ignored: int
    """Pixels that take no part."""

    def raise_if_bad(self) -> None:
        """Raise one ValueError that lists the errors, the first twenty of them by file."""
        if not self.errors:
            return
        more = f"\n  … and {len(self.errors) - SHOWN} more" if len(self.errors) > SHOWN else ""
        listed = "".join(f"\n  {problem}" for problem in self.errors[:SHOWN])
        raise ValueError(f"{len(self.errors)} problems in {self.pairs} pairs of files:{listed}{more}")


def check_pairs(data: DataRecipe, *, splits: Sequence[str] | None = None, progress: bool = True) -> Report:
    """Look through the recipe's splits (both, unless `splits` names them) and refuse them if anything is wrong.

    Files that an earlier check saw, by path, size and time of change, are not read again.

    Raises:
        ValueError: told by `find_pairs`, `classes_of` or `Report.raise_if_bad`.
    """
    classes = classes_of(data)
    names = dict.fromkeys(splits or (data.train_split, data.val_split))
    pairs: dict[Source, Pair] = {}
    shared: list[Pair] = []
    for name in names:
        found = find_pairs(data, name)
        shared += [pair for pair in found if pair.image in pairs]
        pairs |= {pair.image: pair for pair in found}
    if shared:
        raise ValueError(
            f"{shared[0].image}: in the split {data.train_split!r} and in {data.val_split!r}, as are {len(shared)} "
            f"of {len(pairs)} pictures: scores would be too good; keep each in one split"
        )
    report = inspect_pairs(list(pairs.values()), data, classes, progress=progress)
    for warning in report.warnings[:SHOWN]:
        logger.warning("%s", warning)
    report.raise_if_bad()
    return report


def inspect_pairs(
    pairs: Sequence[Pair], data: DataRecipe, classes: Classes, *, workers: int | None = None, progress: bool = False
) -> Report:
    """Read every label and probe every picture in threads; `workers` None takes one per processor, at most eight."""
    return judge(pairs, survey(pairs, data, thorough=False, workers=workers, progress=progress), classes)


def judge(pairs: Sequence[Pair], facts: Sequence[PairFacts], classes: Classes) -> Report:
    """Say what the facts of the pairs mean under a class table; what concerns the whole set comes first."""
    problems = [*suspicions(pairs, facts, classes)]
    for pair, known in zip(pairs, facts, strict=True):
        problems += pair_problems(pair, known, classes)
    counts = count_classes([known.label for known in facts if isinstance(known.label, LabelFacts)], classes)
    return Report(
        pairs=len(pairs),
        errors=tuple(problem for problem in problems if problem.grave),
        warnings=tuple(problem for problem in problems if not problem.grave),
        pixels=counts.pixels,
        ignored=counts.ignored,
    )


def pair_problems(pair: Pair, facts: PairFacts, classes: Classes) -> Iterator[Problem]:
    """Yield what is wrong with one pair."""
    if isinstance(facts.image, Unread):
        yield Problem("unreadable", facts.image.message, pair.image)
    if isinstance(facts.label, Unread):
        yield Problem("unreadable", facts.label.message, pair.label)
        return
    if isinstance(facts.image, ImageFacts):
        yield from _fit_problems(pair, facts.image, facts.label)
    values = np.array([value for value, _ in facts.label.values])
    encoded = classes.encode(values)
    if (encoded == UNKNOWN).any():
        yield _outside(pair.label, facts.label, encoded == UNKNOWN, classes)
    elif (encoded == IGNORE).all():
        message = "every pixel is ignored: nothing can be learnt from it; label or remove it"
        yield Problem("ignored", message, pair.label, grave=False)


def _fit_problems(pair: Pair, image: ImageFacts, label: LabelFacts) -> Iterator[Problem]:
    """Yield how an image and its label differ in size, or are turned apart."""
    size, own = (image.height, image.width), (label.height, label.width)
    turned = image.orientation >= MIRRORED and image.orientation != label.orientation
    if size != own:
        what = f"label of {_told(own)} pixels for an image of {_told(size)} ({pair.image.name})"
        if turned and size == own[::-1]:
            mend = "the image's EXIF tag turns it, and the label was drawn as if there were none: turn the label too"
        else:
            mend = "make them one size"
        yield Problem("size", f"{what}; {mend}", pair.label)
    elif turned:
        message = (
            f"its EXIF tag (orientation {image.orientation}) turns or mirrors it, and the label has no such tag; see "
            "whether they lie on each other, or save the image upright"
        )
        yield Problem("orientation", message, pair.image, grave=False)


def _outside(source: Source, label: LabelFacts, unknown: np.ndarray, classes: Classes) -> Problem:
    """Tell the values that the label map does not list, and how to mend it."""
    outside = [entry for entry, is_unknown in zip(label.values, unknown.tolist(), strict=True) if is_unknown]
    told = ", ".join(f"{value} ({count} pixels)" for value, count in outside[:SHOWN_VALUES])
    if len(outside) > SHOWN_VALUES:
        told += f" … {len(outside)} values in all"
    if is_binary(label, classes):
        mend = binary_hint(classes)
    elif label.palette:
        mend = (
            "the file is a palette image and these are indices into its palette; "
            'map them in "labels" of the class table, or save class numbers as 8-bit greyscale PNG'
        )
    else:
        mend = 'add them to "labels" of the class table as a class or "ignore", or correct the file'
    return Problem("values", f"label values outside the map: {told}; {mend}", source)


def _told(size: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in size)
