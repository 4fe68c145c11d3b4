"""The diagnosis of a data set: issues, class frequencies, duplicates, and statistics of the channels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from semask.data.checks.check import assess
from semask.data.checks.class_counts import (
    ClassCounts,
    count_classes,
    effective_number,
    inverse_frequency,
    median_frequency,
)
from semask.data.checks.duplicates import BITS, groups_of_same, near_duplicates
from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, PixelStats
from semask.data.checks.issue import Issue
from semask.data.checks.propose import Proposal, propose_from, propose_masks
from semask.data.checks.scan import scan
from semask.data.classes import Classes
from semask.data.masks import has_mask_per_class
from semask.data.pairs import Pair, Unpaired, find_pairs, find_splits, stored_classes
from semask.recipes.recipe import DataRecipe

MAX_DUPLICATES = 10_000
"""Pairs of near duplicates reported; videos have no end of them."""
FEW_IMAGES, FEW_PIXELS = 5, 1e-5
"""A class in fewer training images, or in a smaller share of their labelled pixels, is near-empty."""
SMALL_SIDE, LARGE_AREA = 32, 2**24
"""[px] Images beyond these limits are reported."""
DIM = 0.25
"""Images none of which reaches this share of the range have fewer bits than their files."""
SHOWN = 8


class Split(NamedTuple):
    """The pairs of a split with their statistics."""

    name: str
    pairs: tuple[Pair, ...]
    stats: tuple[PairStats, ...]
    counts: ClassCounts

    def images(self) -> Iterator[tuple[Pair, ImageStats]]:
        """Yield the pairs whose image could be read, with its statistics."""
        for pair, stats in zip(self.pairs, self.stats, strict=True):
            if isinstance(stats.image, ImageStats):
                yield pair, stats.image

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with [height, width, number of images] of every size."""
        sizes = [[image.height, image.width] for _, image in self.images()]
        distinct, counts = np.unique(np.array(sizes, np.int64).reshape(-1, 2), axis=0, return_counts=True)
        return {
            "pairs": len(self.pairs),
            "pixels": self.counts.pixels.tolist(),
            "images": self.counts.images.tolist(),
            "ignored": self.counts.ignored,
            "sizes": [[*size, count] for size, count in zip(distinct.tolist(), counts.tolist(), strict=True)],
        }


class Duplicate(NamedTuple):
    """Two pairs of one image: by its bytes (distance None), or but for so many of 64 bits."""

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
    """The findings on a data set; `statistics` is None when no training image could be read.

    class_weights: of the training split, by method: inverse frequency, median frequency, effective number. proposal:
    the class table where the data set has none.
    """

    data: DataRecipe
    classes: Classes
    splits: tuple[Split, ...]
    errors: tuple[Issue, ...]
    warnings: tuple[Issue, ...]
    duplicates: tuple[Duplicate, ...]
    statistics: Statistics | None
    class_weights: dict[str, tuple[float, ...]]
    proposal: Proposal | None = None

    @property
    def training(self) -> Split:
        """The training split, or the first one without it."""
        return next((split for split in self.splits if split.name == self.data.train_split), self.splits[0])

    def statistics_flags(self) -> str:
        """Return the statistics as flags of `semask train`; "" without any."""
        if self.statistics is None:
            return ""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in self.statistics)
        return f"--model.mean {mean} --model.std {std}"

    def weight_flags(self) -> dict[str, str]:
        """Return every kind of class weights as a flag of `semask train`."""
        weights = {name: " ".join(f"{value:.4g}" for value in values) for name, values in self.class_weights.items()}
        return {name: f"--loss.class-weights {values}" for name, values in weights.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        statistics = self.statistics
        issues = {
            name: [
                {"kind": each.kind, "file": None if each.source is None else str(each.source), "message": each.message}
                for each in listed
            ]
            for name, listed in (("errors", self.errors), ("warnings", self.warnings))
        }
        duplicates = [
            {"first": str(each.first.image), "second": str(each.second.image), "splits": list(each.splits),
             "distance": each.distance, "same_label": each.same_label}
            for each in self.duplicates
        ]  # fmt: skip
        return {
            "root": self.data.root,
            "classes": list(self.classes.names),
            "proposal": None if self.proposal is None else self.proposal.to_dict(),
            "splits": {split.name: split.to_dict() for split in self.splits},
            **issues,
            "duplicates": duplicates,
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
    """Read every pair of every split and report all findings.

    `num_classes` is the number of the model; None fits any. `beta` is that of the effective number. Images whose 64-bit
    signatures differ in at most `distance` bits are near duplicates; `workers` as for `scan`.

    Raises:
        ValueError: there is no class table and the labels show none, not one pair, or an option is out of range.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta lies in [0, 1), got {beta:g}; give a number like 0.999")
    if not 0 <= distance <= BITS:
        raise ValueError(f"distance is a number of differing bits, 0 … {BITS}, got {distance}; give a small one")
    if workers is not None and workers < 1:
        raise ValueError(f"workers are threads, at least 1, got {workers}; None takes one per CPU core")
    # scan all splits; a missing class table is derived from all labels
    classes = stored_classes(data)
    found, issues = _scan_splits(data, workers=workers, progress=progress)
    stats = [each for _, _, of_split in found for each in of_split]
    proposal = None
    if classes is None:
        # as training would, from its own two splits
        own = [each for name, _, of_split in found if name in (data.train_split, data.val_split) for each in of_split]
        proposal = propose_masks(data) if has_mask_per_class(data) else propose_from(own)
        if not proposal.safe:
            message = f"no class table in {data.root}, and the labels leave its meaning open: {proposal.reason}"
            issues.append(Issue("classes", f"{message}; use --write-classes, and check and name the classes"))
        classes = proposal.classes
    splits = tuple(
        Split(
            name,
            tuple(pairs),
            tuple(of_split),
            count_classes([known.label for known in of_split if isinstance(known.label, LabelStats)], classes),
        )
        for name, pairs, of_split in found
    )
    pairs = [pair for split in splits for pair in split.pairs]
    # issues: of the set as a whole first
    report = assess(pairs, stats, classes)
    duplicates = find_duplicates(splits, distance=distance)
    training = next((split for split in splits if split.name == data.train_split), splits[0])
    if len(classes) < 2:
        message = (
            f"the class table has {len(classes)} class and models distinguish at least 2; to find one kind of thing, "
            "make it and all the rest two classes"
        )
        issues.append(Issue("classes", message))
    if num_classes is not None and len(classes) != num_classes:
        message = (
            f"the class table has {len(classes)} classes and the recipe's model {num_classes}; use "
            f"--model.num-classes {len(classes)} in training, or give another table with --data.classes"
        )
        issues.append(Issue("classes", message))
    issues += [
        *report.errors,
        *report.warnings,
        *_duplicate_issues(duplicates),
        *_balance_issues(splits, training, classes),
        *_channel_issues(splits),
        *_image_issues(splits),
    ]
    return Diagnosis(
        data=data,
        classes=classes,
        splits=splits,
        errors=tuple(issue for issue in issues if issue.severity == "error"),
        warnings=tuple(issue for issue in issues if issue.severity == "warning"),
        duplicates=duplicates,
        statistics=channel_statistics(training),
        class_weights={
            "inverse frequency": tuple(inverse_frequency(training.counts).tolist()),
            "median frequency": tuple(median_frequency(training.counts).tolist()),
            "effective number": tuple(effective_number(training.counts, beta=beta).tolist()),
        },
        proposal=proposal,
    )


def _scan_splits(
    data: DataRecipe, *, workers: int | None, progress: bool
) -> tuple[list[tuple[str, list[Pair], list[PairStats]]], list[Issue]]:
    """Return the splits with their statistics as far as they can be found, and report missing ones."""
    errors: dict[str, ValueError] = {}
    found: dict[str, list[Pair]] = {}
    for name in find_splits(data):
        try:
            found[name] = find_pairs(data, name)
        except ValueError as error:
            errors[name] = error
            if isinstance(error, Unpaired):
                found[name] = error.pairs
    # one issue of splits that have the same error but for their names and files
    alike: dict[object, list[str]] = {}
    for name, refusal in errors.items():
        flags = re.findall(r"--data\.[\w-]+ \S+", str(refusal)) if isinstance(refusal, Unpaired) else []
        alike.setdefault((*flags,) or str(refusal).partition("\n")[0].replace(name, "{split}"), []).append(name)
    issues = []
    for names in alike.values():
        own = {*names} & {data.train_split, data.val_split}  # training needs these alone
        first, *rest = str(errors[names[0]]).split("\n")
        first += f" ({' and '.join(map(repr, names))} alike)" if len(names) > 1 else ""
        issues.append(Issue("split", "\n".join((first, *rest)), severity="error" if own else "warning"))
    if not any(found.values()):
        raise ValueError("\n".join(str(issue) for issue in issues))
    return [
        (name, pairs, scan(pairs, data, thorough=True, workers=workers, progress=progress))
        for name, pairs in found.items()
    ], issues


def channel_statistics(split: Split) -> Statistics | None:
    """Return mean and standard deviation over all pixels of the decoded images, or None without any."""
    decoded = [(image.height * image.width, image.pixels) for _, image in split.images() if image.pixels is not None]
    if not decoded:
        return None
    # moments of images, weighted by their area, are moments of all pixels
    areas = np.array([area for area, _ in decoded], np.float64)
    mean, square = (
        np.average(np.array(moments), axis=0, weights=areas)
        for moments in ([pixels.mean for _, pixels in decoded], [pixels.square for _, pixels in decoded])
    )
    return Statistics(
        tuple(mean.tolist()), tuple(math.sqrt(max(0.0, s - m * m)) for m, s in zip(mean, square, strict=True))
    )


def find_duplicates(splits: Sequence[Split], *, distance: int) -> tuple[Duplicate, ...]:
    """Return pairs whose images are the same or nearly so: between splits first, the most similar first."""
    entries = [
        (split.name, pair, stats) for split in splits for pair, stats in zip(split.pairs, split.stats, strict=True)
    ]

    def duplicate(first: int, second: int, bits: int | None) -> Duplicate:
        (split, pair, stats), (other_split, other_pair, other_stats) = entries[first], entries[second]
        same_label = stats.label_digest == other_stats.label_digest
        return Duplicate(pair, other_pair, (split, other_split), bits, same_label)

    # the same bytes
    digests = [stats.image_digest or None for _, _, stats in entries]
    found = [duplicate(group[0], other, None) for group in groups_of_same(digests) for other in group[1:]]
    # similar signatures, from the end, where validation lies: the limit drops pairs within the training split
    signatures = [
        stats.image.pixels.signature if isinstance(stats.image, ImageStats) and stats.image.pixels else None
        for _, _, stats in entries
    ]
    near, last = near_duplicates(signatures[::-1], distance=distance), len(entries) - 1
    similar = ((last - second, last - first, bits) for first, second, bits in near)
    found += [
        duplicate(*each) for each in islice((s for s in similar if digests[s[0]] != digests[s[1]]), MAX_DUPLICATES)
    ]
    return tuple(sorted(found, key=lambda each: (not each.leak, -1 if each.distance is None else each.distance)))


def _duplicate_issues(duplicates: Sequence[Duplicate]) -> Iterator[Issue]:
    # duplicates between splits, one by one
    within = [each for each in duplicates if not each.leak]
    for each in duplicates:
        if each.leak:
            like = "the same file as" if each.distance is None else f"like ({each.distance} of 64 bits differ)"
            yield Issue(
                "leak",
                f"in {each.splits[1]!r} and {like} {each.first.image} in {each.splits[0]!r}: scores will be too good; "
                "keep it in one split",
                each.second.image,
                severity="error" if each.distance is None else "warning",
            )
    for each in within:
        # within a split, copies with different labels contradict each other
        if each.distance is None and not each.same_label:
            message = f"the same image as {each.first.image}, with another label; keep the right one"
            yield Issue("duplicate", message, each.second.image, "warning")
    # the others in one line each: only their number matters
    copies = sum(each.distance is None for each in within)
    for count, what in ((copies, "copies of a file"), (len(within) - copies, "pairs of nearly equal images")):
        if count:
            message = f"{what} within a split: {count}; they count more than others"
            yield Issue("duplicate", message, severity="warning")


def _balance_issues(splits: Sequence[Split], training: Split, classes: Classes) -> Iterator[Issue]:
    """Report classes that are rare or absent in training."""
    counts = training.counts
    # absent in all splits; in others alone; rare
    nowhere = sum((split.counts.pixels for split in splits), np.zeros(len(classes), np.int64)) == 0
    unseen = (counts.pixels == 0) & ~nowhere
    share = counts.pixels / max(1, counts.pixels.sum())
    rare = (counts.pixels > 0) & ((counts.images < FEW_IMAGES) | (share < FEW_PIXELS))
    for chosen, message in (
        (unseen, "in other splits and never in training: the model cannot learn them, and scores suffer"),
        (nowhere, "in no label at all: is the class table the one of these labels?"),
        (rare, f"near-empty: in fewer than {FEW_IMAGES} training images or {FEW_PIXELS:.3%} of their pixels"),
    ):
        numbers = np.flatnonzero(chosen)
        names = ", ".join(classes.names[number] for number in numbers[:SHOWN])
        more = f" … and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        which = f"{len(numbers)} classes ({names}{more}) are" if len(numbers) > 1 else f"the class {names} is"
        if len(numbers):
            yield Issue("classes", f"{which} {message}", severity="warning")


def _image_issues(splits: Sequence[Split]) -> Iterator[Issue]:
    """Report images of one brightness, and very small and very large ones."""
    for pair, image in (entry for split in splits for entry in split.images()):
        size = f"{image.height}×{image.width} pixels"
        if image.pixels is not None and image.pixels.signature is None:
            message = "one brightness all over: is it an image? remove it if not"
            yield Issue("flat", message, pair.image, "warning")
        if min(image.height, image.width) < SMALL_SIDE:
            message = f"{size}, less than {SMALL_SIDE} on a side: is it a thumbnail?"
            yield Issue("extent", message, pair.image, "warning")
        if image.height * image.width > LARGE_AREA:
            message = f"{size}: slow to read for one crop each; cut it into tiles"
            yield Issue("extent", message, pair.image, "warning")


def _channel_issues(splits: Sequence[Split]) -> Iterator[Issue]:
    """Report channels read as transparency, and images that leave most of their range unused."""
    decoded: list[tuple[Pair, PixelStats]] = [
        (pair, image.pixels) for split in splits for pair, image in split.images() if image.pixels is not None
    ]
    # a fourth channel
    transparent = [pair for pair, pixels in decoded if pixels.transparent]
    if transparent:
        message = (
            f"{len(transparent)} of {len(decoded)} images have a fourth channel, which is read as transparency: they "
            "are laid over white. If it is a band of its own, such as infrared, use --data.channels 4"
        )
        yield Issue("bands", message, transparent[0].image, "warning")
    # images of 12 bits, for example, in files of 16
    highest = max((pixels.highest for _, pixels in decoded), default=1.0)
    if highest < DIM:
        message = (
            f"no value of any image is above {highest:.2%} of the range ({65535 * highest:.0f} of 65535 in 16 bits): "
            "augmentation and the weights of pretrained encoders expect all of it. Give the values that become 0 and "
            f"1, such as --data.value-range 0 {2 ** max(1, math.ceil(math.log2(65535 * highest + 1))) - 1} for 16 bits"
        )
        yield Issue("bands", message, severity="warning")
