"""All that can be said of a data set: what is wrong, how often each class occurs, what is there twice, statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from semask.data.checks.check import judge
from semask.data.checks.class_counts import (
    ClassCounts,
    count_classes,
    effective_number,
    inverse_frequency,
    median_frequency,
)
from semask.data.checks.duplicates import BITS, groups_of_same, near_duplicates
from semask.data.checks.file_stats import ImageFacts, LabelFacts, PairFacts
from semask.data.checks.issue import Problem
from semask.data.checks.survey import survey
from semask.data.classes import Classes
from semask.data.dataset import classes_of
from semask.data.pairs import Pair, Unpaired, find_pairs
from semask.recipes.recipe import DataRecipe

MAX_DUPLICATES = 10_000
"""Pairs of like pictures that are told; films have no end of them."""
FEW_IMAGES, FEW_PIXELS = 5, 1e-5
"""A class in fewer training pictures, or in a smaller share of their labelled pixels, is near-empty."""
SMALL_SIDE, LARGE_AREA = 32, 2**24
"""[px] Pictures beyond are pointed out."""
DIM = 0.25
"""Pictures none of which reaches this share of the range are of fewer bits than their files."""
SHOWN = 8


class Split(NamedTuple):
    """The pairs of a split with what is known of them."""

    name: str
    pairs: tuple[Pair, ...]
    facts: tuple[PairFacts, ...]
    counts: ClassCounts


class Duplicate(NamedTuple):
    """Two pairs whose pictures are the same: by their bytes (distance None) or in all but so many of 64 bits."""

    first: Pair
    second: Pair
    splits: tuple[str, str]
    distance: int | None
    same_label: bool

    @property
    def leak(self) -> bool:
        """Whether the two lie in different splits, so that scores are too good."""
        return self.splits[0] != self.splits[1]


class Statistics(NamedTuple):
    """Mean and standard deviation of every channel over all training pixels, in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a data set; `statistics` is None when no training picture could be read."""

    data: DataRecipe
    classes: Classes
    splits: tuple[Split, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    duplicates: tuple[Duplicate, ...]
    statistics: Statistics | None
    class_weights: dict[str, tuple[float, ...]]
    """By how they were found: inverse frequency, median frequency, effective number; of the training split."""

    @property
    def training(self) -> Split:
        """The training split, or what could be found in its place."""
        return next((split for split in self.splits if split.name == self.data.train_split), self.splits[0])

    def statistics_flags(self) -> str:
        """Return the statistics as flags of `semask train`; nothing without any."""
        if self.statistics is None:
            return ""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in self.statistics)
        return f"--model.mean {mean} --model.std {std}"

    def weight_flags(self) -> dict[str, str]:
        """Return every kind of class weights as a flag of `semask train`."""
        told = {name: " ".join(f"{weight:.4g}" for weight in weights) for name, weights in self.class_weights.items()}
        return {name: f"--loss.class-weights {weights}" for name, weights in told.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        statistics = self.statistics
        return {
            "root": self.data.root,
            "classes": list(self.classes.names),
            "splits": {split.name: _split_record(split) for split in self.splits},
            "errors": [_problem_record(problem) for problem in self.errors],
            "warnings": [_problem_record(problem) for problem in self.warnings],
            "duplicates": [_duplicate_record(duplicate) for duplicate in self.duplicates],
            "mean": None if statistics is None else list(statistics.mean),
            "std": None if statistics is None else list(statistics.std),
            "class_weights": {name: list(weights) for name, weights in self.class_weights.items()},
        }


def diagnose(
    data: DataRecipe,
    *,
    num_classes: int | None = None,
    beta: float = 0.999,
    distance: int = 3,
    workers: int | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Read every pair of both splits and tell all that can be said of them.

    `num_classes` is what a model expects; None fits any. `beta` is that of the effective number. Pictures whose 64-bit
    signatures differ in at most `distance` bits are like; `workers` as for `survey`.

    Raises:
        ValueError: there is no class table, not one pair, or an option is out of range.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta lies in [0, 1), got {beta:g}; give a number like 0.999")
    if not 0 <= distance <= BITS:
        raise ValueError(f"distance is a number of differing bits, 0 … {BITS}, got {distance}; give a small one")
    if workers is not None and workers < 1:
        raise ValueError(f"workers are threads, at least 1, got {workers}; None takes one per processor")
    classes = classes_of(data)
    splits, problems = _read(data, classes, workers=workers, progress=progress)
    pairs = [pair for split in splits for pair in split.pairs]
    facts = [known for split in splits for known in split.facts]
    report = judge(pairs, facts, classes)
    duplicates = find_duplicates(splits, distance=distance)
    training = next((split for split in splits if split.name == data.train_split), splits[0])
    problems += [
        *_class_count(classes, num_classes),
        *report.errors,
        *report.warnings,
        *_duplicate_problems(duplicates),
        *_balance_problems(splits, training, classes),
        *_band_problems(splits),
        *_picture_problems(splits),
    ]
    return Diagnosis(
        data=data,
        classes=classes,
        splits=splits,
        errors=tuple(problem for problem in problems if problem.grave),
        warnings=tuple(problem for problem in problems if not problem.grave),
        duplicates=duplicates,
        statistics=channel_statistics(training.facts),
        class_weights={
            "inverse frequency": tuple(inverse_frequency(training.counts).tolist()),
            "median frequency": tuple(median_frequency(training.counts).tolist()),
            "effective number": tuple(effective_number(training.counts, beta=beta).tolist()),
        },
    )


def channel_statistics(facts: Sequence[PairFacts]) -> Statistics | None:
    """Return mean and standard deviation over all pixels of the pictures that were decoded, or None without any."""
    known = [(f.image.height * f.image.width, f.image.picture) for f in facts if isinstance(f.image, ImageFacts)]
    measured = [(area, picture) for area, picture in known if picture is not None]
    if not measured:
        return None
    areas = np.array([area for area, _ in measured], np.float64)
    mean, square = (
        np.average(np.array(moments), axis=0, weights=areas)
        for moments in ([p.mean for _, p in measured], [p.square for _, p in measured])
    )
    return Statistics(
        tuple(mean.tolist()), tuple(math.sqrt(max(0.0, s - m * m)) for m, s in zip(mean, square, strict=True))
    )


def find_duplicates(splits: Sequence[Split], *, distance: int) -> tuple[Duplicate, ...]:
    """Return pairs whose pictures are the same or alike: between splits first, the most alike first."""
    where = [
        (split.name, pair, facts) for split in splits for pair, facts in zip(split.pairs, split.facts, strict=True)
    ]

    def duplicate(first: int, second: int, bits: int | None) -> Duplicate:
        (split, pair, facts), (other_split, other_pair, other_facts) = where[first], where[second]
        same_label = facts.label_digest == other_facts.label_digest
        return Duplicate(pair, other_pair, (split, other_split), bits, same_label)

    digests = [facts.image_digest or None for _, _, facts in where]
    found = [duplicate(group[0], other, None) for group in groups_of_same(digests) for other in group[1:]]
    signatures = [
        facts.image.picture.signature if isinstance(facts.image, ImageFacts) and facts.image.picture else None
        for _, _, facts in where
    ]
    # From the end, where validation lies: what is beyond the limit lies within the training split.
    likes, last = near_duplicates(signatures[::-1], distance=distance), len(where) - 1
    alike = ((last - second, last - first, bits) for first, second, bits in likes)
    found += [duplicate(*like) for like in islice((a for a in alike if digests[a[0]] != digests[a[1]]), MAX_DUPLICATES)]
    return tuple(sorted(found, key=lambda each: (not each.leak, -1 if each.distance is None else each.distance)))


def _read(
    data: DataRecipe, classes: Classes, *, workers: int | None, progress: bool
) -> tuple[tuple[Split, ...], list[Problem]]:
    """Read the splits as far as they can be found, and tell what is missing of them."""
    problems, found = [], {}
    for name in dict.fromkeys((data.train_split, data.val_split)):
        try:
            found[name] = find_pairs(data, name)
        except Unpaired as error:
            found[name] = error.pairs
            problems.append(Problem("split", str(error)))
        except ValueError as error:
            problems.append(Problem("split", str(error)))
    if not any(found.values()):
        raise ValueError("\n".join(str(problem) for problem in problems))
    splits = []
    for name, pairs in found.items():
        facts = survey(pairs, data, thorough=True, workers=workers, progress=progress)
        counts = count_classes([f.label for f in facts if isinstance(f.label, LabelFacts)], classes)
        splits.append(Split(name, tuple(pairs), tuple(facts), counts))
    return tuple(splits), problems


def _class_count(classes: Classes, expected: int | None) -> Iterator[Problem]:
    if len(classes) < 2:
        yield Problem(
            "classes",
            f"the class table has {len(classes)} class and models tell at least 2 apart; to find one kind of "
            "thing, make it and all the rest two classes",
        )
    if expected is not None and len(classes) != expected:
        yield Problem(
            "classes",
            f"the class table has {len(classes)} classes and the recipe's model {expected}; say --model.num-classes "
            f"{len(classes)} in training, or give another table with --data.classes",
        )


def _duplicate_problems(duplicates: Sequence[Duplicate]) -> Iterator[Problem]:
    within = [each for each in duplicates if not each.leak]
    for each in duplicates:
        if each.leak:
            like = "the same file as" if each.distance is None else f"like ({each.distance} of 64 bits differ)"
            yield Problem(
                "leak",
                f"in {each.splits[1]!r} and {like} {each.first.image} in {each.splits[0]!r}: scores will be too good; "
                "keep it in one split",
                each.second.image,
                grave=each.distance is None,
            )
    for each in within:
        if each.distance is None and not each.same_label:
            message = f"the same picture as {each.first.image}, with another label; keep the right one"
            yield Problem("duplicate", message, each.second.image, grave=False)
    copies = sum(each.distance is None for each in within)
    for count, what in ((copies, "copies of a file"), (len(within) - copies, "pairs of pictures nearly alike")):
        if count:
            yield Problem("duplicate", f"{what} within a split: {count}; they count more than others", grave=False)


def _balance_problems(splits: Sequence[Split], training: Split, classes: Classes) -> Iterator[Problem]:
    """Tell classes that training hardly sees."""
    counts = training.counts
    nowhere = sum((split.counts.pixels for split in splits), np.zeros(len(classes), np.int64)) == 0
    unseen = (counts.pixels == 0) & ~nowhere
    share = counts.pixels / max(1, counts.pixels.sum())
    rare = (counts.pixels > 0) & ((counts.images < FEW_IMAGES) | (share < FEW_PIXELS))
    for chosen, message in (
        (unseen, "in other splits and never in training: the model cannot learn them, and scores suffer"),
        (nowhere, "in no label at all: is the class table the one of these labels?"),
        (rare, f"near-empty: in fewer than {FEW_IMAGES} training pictures or {FEW_PIXELS:.3%} of their pixels"),
    ):
        if chosen.any():
            yield Problem("classes", f"{_some(np.flatnonzero(chosen), classes)} {message}", grave=False)


def _picture_problems(splits: Sequence[Split]) -> Iterator[Problem]:
    """Tell pictures of one brightness, and very small and very large ones."""
    for split in splits:
        for pair, facts in zip(split.pairs, split.facts, strict=True):
            image = facts.image
            if not isinstance(image, ImageFacts):
                continue
            size = f"{image.height}×{image.width} pixels"
            if image.picture is not None and image.picture.signature is None:
                message = "one brightness all over: is it a picture? remove it if not"
                yield Problem("flat", message, pair.image, grave=False)
            if min(image.height, image.width) < SMALL_SIDE:
                message = f"{size}, less than {SMALL_SIDE} on a side: is it a thumbnail?"
                yield Problem("extent", message, pair.image, grave=False)
            if image.height * image.width > LARGE_AREA:
                message = f"{size}: slow to read for one crop each; cut it into tiles"
                yield Problem("extent", message, pair.image, grave=False)


def _band_problems(splits: Sequence[Split]) -> Iterator[Problem]:
    """Tell channels taken for transparency, and pictures that leave most of their range unused."""
    known = [
        (pair, facts.image.picture)
        for split in splits
        for pair, facts in zip(split.pairs, split.facts, strict=True)
        if isinstance(facts.image, ImageFacts) and facts.image.picture is not None
    ]
    see_through = [pair for pair, picture in known if picture.see_through]
    if see_through:
        yield Problem(
            "bands",
            f"{len(see_through)} of {len(known)} pictures have a fourth channel, which is taken for transparency: they "
            "are laid over white. If it is a band of its own, such as infrared, say --data.channels 4",
            see_through[0].image,
            grave=False,
        )
    highest = max((picture.highest for _, picture in known), default=1.0)
    if highest < DIM:
        yield Problem(
            "bands",
            f"no value of any picture is above {highest:.2%} of the range ({65535 * highest:.0f} of 65535 in 16 bits): "
            "augmentation and the weights of pretrained encoders expect all of it. Say which values become 0 and 1, "
            f"such as --data.value-range 0 {2 ** max(1, math.ceil(math.log2(65535 * highest + 1))) - 1} for 16 bits",
            grave=False,
        )


def _some(numbers: np.ndarray, classes: Classes) -> str:
    """Return the names of some classes, with their number."""
    names = ", ".join(classes.names[number] for number in numbers[:SHOWN])
    more = f" … and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{len(numbers)} classes ({names}{more}) are" if len(numbers) > 1 else f"the class {names} is"


def _split_record(split: Split) -> dict[str, Any]:
    sizes = [[f.image.height, f.image.width] for f in split.facts if isinstance(f.image, ImageFacts)]
    distinct, counts = np.unique(np.array(sizes, np.int64).reshape(-1, 2), axis=0, return_counts=True)
    return {
        "pairs": len(split.pairs),
        "pixels": split.counts.pixels.tolist(),
        "images": split.counts.images.tolist(),
        "ignored": split.counts.ignored,
        "sizes": [[*size, count] for size, count in zip(distinct.tolist(), counts.tolist(), strict=True)],
    }


def _problem_record(problem: Problem) -> dict[str, Any]:
    source = None if problem.source is None else str(problem.source)
    return {"kind": problem.kind, "file": source, "message": problem.message}


def _duplicate_record(duplicate: Duplicate) -> dict[str, Any]:
    return {
        "first": str(duplicate.first.image),
        "second": str(duplicate.second.image),
        "splits": list(duplicate.splits),
        "distance": duplicate.distance,
        "same_label": duplicate.same_label,
    }
