"""The check of a data set before training: all issues by file, each with its fix."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from semask.data.checks.class_counts import count_classes
from semask.data.checks.duplicates import groups_of_same
from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, ReadFailure
from semask.data.checks.issue import Issue
from semask.data.checks.label_heuristics import binary_fix, is_binary, label_issues
from semask.data.checks.scan import scan
from semask.data.classes import UNKNOWN, Classes
from semask.data.dataset import classes_of
from semask.data.label_values import name_of
from semask.data.pairs import Pair, find_pairs
from semask.data.readers.image import JPEG_LABEL
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE
from semask.text import fold, pluralize

logger = logging.getLogger(__name__)

SHOWN = 20
"""Issues in a message."""
SHOWN_VALUES = 5
"""Unknown label values listed per file."""
MIRRORED = 2
"""EXIF orientations from here on change an image; those from 5 on swap its sides."""


@dataclass(frozen=True)
class CheckReport:
    """Pairs and issues of a data set; pixels of every class and ignored ones, over all readable labels."""

    pairs: int
    errors: tuple[Issue, ...]
    warnings: tuple[Issue, ...]
    pixels: Int64[np.ndarray, " k"]
    ignored: int

    def raise_if_bad(self) -> None:
        """Raise one ValueError that lists the errors, the first twenty of them by file."""
        if not self.errors:
            return
        more = f"\n  … and {len(self.errors) - SHOWN} more" if len(self.errors) > SHOWN else ""
        listed = "".join(f"\n  {issue}" for issue in self.errors[:SHOWN])
        raise ValueError(f"{len(self.errors)} errors in {self.pairs} pairs of files:{listed}{more}")


def check_pairs(data: DataRecipe, *, splits: Sequence[str] | None = None, progress: bool = True) -> CheckReport:
    """Check the recipe's splits (both, unless `splits` names them) and refuse them if there is any error.

    Files that an earlier check saw, by path, size and time of change, are not read again. Images of one split that are
    copies of another's are logged as a warning.

    Raises:
        ValueError: as for `find_pairs`, `classes_of` or `CheckReport.raise_if_bad`.
    """
    classes = classes_of(data)
    pairs: dict[Source, Pair] = {}
    shared: list[Pair] = []
    split_of: dict[Source, str] = {}
    for name in dict.fromkeys(splits or (data.train_split, data.val_split)):
        found = find_pairs(data, name)
        shared += [pair for pair in found if pair.image in pairs]
        pairs |= {pair.image: pair for pair in found}
        split_of |= {pair.image: name for pair in found}
    if shared:
        raise ValueError(
            f"{shared[0].image}: in the split {data.train_split!r} and in {data.val_split!r}, as are {len(shared)} "
            f"of {len(pairs)} images: scores would be too good; keep each in one split"
        )
    # look into the files
    checked = list(pairs.values())
    stats = scan(checked, data, thorough=False, progress=progress)
    report = assess(checked, stats, classes)
    # copies across splits, by the digests that the scan needs anyway
    copies = [
        (group[0], other)
        for group in groups_of_same([known.image_digest or None for known in stats])
        for other in group[1:]
        if split_of[checked[group[0]].image] != split_of[checked[other].image]
    ]
    if copies:
        examples = ", ".join(f"{checked[other].image} of {checked[first].image}" for first, other in copies[:2])
        logger.warning(
            "%d images of %r are copies of images of %r, such as %s: scores will be too good; keep each in one split "
            "(`semask doctor` lists all)",
            *(len(copies), data.val_split, data.train_split, examples),
        )
    for warning in report.warnings[:SHOWN]:
        logger.warning("%s", warning)
    report.raise_if_bad()
    return report


def inspect_pairs(
    pairs: Sequence[Pair], data: DataRecipe, classes: Classes, *, workers: int | None = None, progress: bool = False
) -> CheckReport:
    """Read every label and probe every image in threads; `workers` as for `scan`."""
    return assess(pairs, scan(pairs, data, thorough=False, workers=workers, progress=progress), classes)


def assess(pairs: Sequence[Pair], stats: Sequence[PairStats], classes: Classes) -> CheckReport:
    """Find the issues of measured pairs under a class table; issues of the whole set come first."""
    issues = [*label_issues(pairs, stats, classes)]
    for pair, known in zip(pairs, stats, strict=True):
        issues += _pair_issues(pair, known, classes)
    counts = count_classes([known.label for known in stats if isinstance(known.label, LabelStats)], classes)
    errors = tuple(issue for issue in issues if issue.severity == "error")
    warnings = tuple(issue for issue in issues if issue.severity == "warning")
    return CheckReport(len(pairs), errors, warnings, counts.pixels, counts.ignored)


def _pair_issues(pair: Pair, stats: PairStats, classes: Classes) -> Iterator[Issue]:
    image, label = stats.image, stats.label
    if isinstance(image, ReadFailure):
        yield Issue("unreadable", image.message, pair.image)
    if isinstance(label, ReadFailure):
        yield Issue("unreadable", label.message, pair.label)
        return
    if isinstance(image, ImageStats):
        # sizes, and whether both are turned alike
        turned = image.orientation >= MIRRORED and image.orientation != label.orientation
        if (image.height, image.width) != (label.height, label.width):
            fix = "make them one size"
            if turned and (image.width, image.height) == (label.height, label.width):
                fix = "the image's EXIF tag turns it, and the label was drawn without it: turn the label too"
            message = f"label of {label.height}×{label.width} pixels for an image of {image.height}×{image.width}"
            yield Issue("size", f"{message} ({pair.image.name}); {fix}", pair.label)
        elif turned:
            message = (
                f"its EXIF tag (orientation {image.orientation}) turns or mirrors it, and the label has no such tag; "
                "check whether they lie on each other, or save the image upright"
            )
            yield Issue("orientation", message, pair.image, "warning")
    if label.lossy and not classes.ranges:
        yield Issue("unreadable", JPEG_LABEL, pair.label)
        return
    # values of the label
    values = label.values_for(classes)
    encoded = classes.encode(np.array([value for value, _ in values]))
    unknown = [entry for entry, code in zip(values, encoded.tolist(), strict=True) if code == UNKNOWN]
    if unknown:
        unknown.sort(key=lambda entry: -entry[1])
        listed = fold([f"{name_of(value)} ({count} pixels)" for value, count in unknown], SHOWN_VALUES)
        fix = 'add them to "labels" of the class table as a class or "ignore", or correct the file'
        if is_binary(label, classes):
            fix = binary_fix(classes)
        elif label.palette:
            fix = (
                "the file is a palette image and these are indices into its palette; "
                'map them, or its colours, in "labels" of the class table'
            )
        yield Issue("values", f"{pluralize(len(unknown), 'label value')} outside the map: {listed}; {fix}", pair.label)
    elif (encoded == IGNORE).all():
        message = "every pixel is ignored: nothing can be learnt from it; label or remove it"
        yield Issue("ignored", message, pair.label, "warning")


def digest_split(data: DataRecipe, split: str) -> str:
    """Return a fingerprint of a split: scores of two models are comparable when it is the same.

    It is the SHA-256 of the number of classes and the values of labels, the stems, and all bytes of images and labels,
    wherever they are stored. Names and colours of classes may change.
    """
    classes = classes_of(data)
    total = hashlib.sha256(json.dumps([len(classes), classes.labels()], sort_keys=True).encode())
    if data.kind == "scenes":
        total.update(f"scenes {data.scene_count} {data.scene_size}".encode())
        return total.hexdigest()

    def line(pair: Pair) -> bytes:
        digests = []
        for source in (pair.image, pair.label):
            with source.open("rb") as file:
                digests.append(hashlib.sha256(file.read()).hexdigest())
        # file names may hold bytes that are no text
        return f"{pair.stem}\0{digests[0]}\0{digests[1]}\n".encode("utf-8", "surrogatepass")

    with ThreadPoolExecutor(8) as pool:
        for part in pool.map(line, find_pairs(data, split)):
            total.update(part)
    return total.hexdigest()
