"""The diagnosis of a data set: issues, class frequencies, duplicates, and statistics of the channels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from semask.data.checks.check import assess
from semask.data.checks.class_counts import (
    RARE,
    RARE_CROPS,
    count_classes,
    effective_number,
    inverse_frequency,
    median_frequency,
    rare_weights,
)
from semask.data.checks.duplicates import BITS, Duplicate, duplicate_issues, find_duplicates
from semask.data.checks.file_stats import LabelStats
from semask.data.checks.issue import Issue
from semask.data.checks.propose import Proposal, propose_from, propose_masks
from semask.data.checks.scan import scan
from semask.data.checks.set_heuristics import balance_issues, channel_issues, image_issues
from semask.data.checks.split import Split
from semask.data.checks.value_range import find_value_range
from semask.data.classes import Classes
from semask.data.layout import Misplaced
from semask.data.masks import has_mask_per_class
from semask.data.pairs import Pair, Unpaired, find_pairs, find_splits, stored_classes
from semask.recipes.recipe import DataRecipe


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

    def own_weights(self) -> str:
        """Return the weights and crops that a run of a recipe for own data chooses by itself; "" for other data."""
        if not self.data.classes_from_data:
            return ""
        pixels = self.training.counts.pixels
        weights, by_itself = rare_weights(pixels.tolist()), "`semask train folder/…` by itself gives"
        if weights is None:
            return f"{by_itself} all classes equal weights: none has less than {RARE:.0%} of the labelled pixels"
        listed = " ".join(f"{weight:g}" for weight in weights)
        return f"{by_itself} the weights {listed}, and {RARE_CROPS:.0%} of crops to rare classes; flags replace both"

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
    listed, issues = _find_splits(data)
    # as training on own data reads the values: by those of its own two splits
    both = [pair for name in (data.train_split, data.val_split) for pair in listed.get(name, [])]
    if data.classes_from_data and (known := find_value_range(both, data)):
        message = (
            f"{known.reason}: `semask train folder/…` and this check read {known.text} as 0 … 1 by themselves; "
            f"elsewhere use --data.value-range {known.low:g} {known.high:g}"
        )
        issues.append(Issue("bands", message, severity="warning"))
        data = replace(data, value_range=known[:2])
    found = [
        (name, pairs, scan(pairs, data, thorough=True, workers=workers, progress=progress))
        for name, pairs in listed.items()
    ]
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
        *duplicate_issues(duplicates),
        *balance_issues(splits, training, classes),
        *channel_issues(splits),
        *image_issues(splits),
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


def _training_split(splits: tuple[Split, ...], data: DataRecipe) -> Split:
    return next((split for split in splits if split.name == data.train_split), splits[0])


def _find_splits(data: DataRecipe) -> tuple[dict[str, list[Pair]], list[Issue]]:
    """Return the pairs of all splits as far as they can be found, and report missing ones."""
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
        flags = re.findall(r"--data\.[\w-]+ \S+", str(refusal)) if isinstance(refusal, Unpaired | Misplaced) else []
        alike.setdefault((*flags,) or str(refusal).partition("\n")[0].replace(name, "{split}"), []).append(name)
    issues = []
    for names in alike.values():
        own = {*names} & {data.train_split, data.val_split}  # training needs these alone
        first, *rest = str(errors[names[0]]).split("\n")
        first += f" ({' and '.join(map(repr, names))} alike)" if len(names) > 1 else ""
        issues.append(Issue("split", "\n".join((first, *rest)), severity="error" if own else "warning"))
    if not any(found.values()):
        raise ValueError("\n".join(str(issue) for issue in issues))
    return found, issues


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
