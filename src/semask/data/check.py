"""Looking through a dataset before training: everything wrong in it, by file, and how to mend it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from semask.data.classes import UNKNOWN, Classes
from semask.data.dataset import classes_of
from semask.data.folder import Pair, find_pairs
from semask.data.image import is_palette, probe_image, read_label
from semask.data.source import Source
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

logger = logging.getLogger(__name__)

SHOWN = 20
"""Problems in a message."""
SHOWN_VALUES = 5
"""Unknown label values told per file."""
BINARY_HINT = 'if 255 marks the second class, say so in the class table: "labels": {"0": 0, "255": 1}'


class Problem(NamedTuple):
    """What is wrong with a file."""

    source: Source
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


class Finding(NamedTuple):
    """What one pair holds."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    pixels: Int64[np.ndarray, " k_and_ignored"] | None = None
    binary: bool = False
    """The label file holds 255 and nothing else but 0."""


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

    Raises:
        ValueError: told by `find_pairs`, `classes_of` or `Report.raise_if_bad`.
    """
    classes = classes_of(data)
    names = dict.fromkeys(splits or (data.train_split, data.val_split))
    pairs = {pair.image: pair for name in names for pair in find_pairs(data, name)}
    report = inspect_pairs(list(pairs.values()), classes, progress=progress)
    for warning in report.warnings[:SHOWN]:
        logger.warning("%s", warning)
    report.raise_if_bad()
    return report


def inspect_pairs(
    pairs: Sequence[Pair], classes: Classes, *, workers: int | None = None, progress: bool = False
) -> Report:
    """Read every label and probe every picture in threads; `workers` None takes one per processor, at most eight."""
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda pair: inspect_pair(pair, classes), pairs)
        findings = list(_shown(found, len(pairs)) if progress else found)
    pixels = np.zeros(len(classes) + 1, np.int64)
    for finding in findings:
        if finding.pixels is not None:
            pixels += finding.pixels
    return Report(
        pairs=len(pairs),
        errors=tuple(problem for f in findings for problem in f.errors) + _binary_errors(pairs, findings, pixels),
        warnings=tuple(problem for f in findings for problem in f.warnings),
        pixels=pixels[:-1],
        ignored=int(pixels[-1]),
    )


def inspect_pair(pair: Pair, classes: Classes) -> Finding:
    """Return what one pair holds and what is wrong with it."""
    errors: list[Problem] = []
    size = None
    try:
        size = probe_image(pair.image)
    except ValueError as error:
        errors.append(_problem(pair.image, error))
    try:
        source = read_label(pair.label).numpy()
    except ValueError as error:
        return Finding((*errors, _problem(pair.label, error)))
    if size is not None and size != source.shape:
        what = f"label of {_told(source.shape)} pixels for an image of {_told(size)} ({pair.image.name})"
        errors.append(Problem(pair.label, f"{what}; make them one size"))
    encoded = classes.encode(source)
    unknown = source[encoded == UNKNOWN]
    if unknown.size:
        return Finding((*errors, _outside(pair.label, unknown, source, classes)))
    pixels = np.bincount(encoded.ravel(), minlength=IGNORE + 1)
    warnings: tuple[Problem, ...] = ()
    if pixels[IGNORE] == source.size:
        warnings = (Problem(pair.label, "every pixel is ignored: nothing can be learnt from it; label or remove it"),)
    counts = np.append(pixels[: len(classes)], pixels[IGNORE])
    return Finding(tuple(errors), warnings, counts, binary=_is_binary(source, classes) and pixels[IGNORE] > 0)


def _outside(label: Source, unknown: np.ndarray, source: np.ndarray, classes: Classes) -> Problem:
    """Tell the values that the label map does not list, and how to mend it."""
    values, counts = np.unique(unknown, return_counts=True)
    shown = list(zip(values.tolist(), counts.tolist(), strict=True))[:SHOWN_VALUES]
    told = ", ".join(f"{value} ({count} pixels)" for value, count in shown)
    if len(values) > SHOWN_VALUES:
        told += f" … {len(values)} values in all"
    if _is_binary(source, classes):
        mend = BINARY_HINT
    elif is_palette(label):
        mend = (
            "the file is a palette image and these are indices into its palette; "
            'map them in "labels" of the class table, or save class numbers as 8-bit greyscale PNG'
        )
    else:
        mend = 'add them to "labels" of the class table as a class or "ignore", or correct the file'
    return Problem(label, f"label values outside the map: {told}; {mend}")


def _is_binary(source: np.ndarray, classes: Classes) -> bool:
    """Whether a mask for two classes holds 255 and nothing else but 0."""
    return len(classes) == 2 and bool((source == 255).any()) and bool(((source == 0) | (source == 255)).all())


def _binary_errors(pairs: Sequence[Pair], findings: Sequence[Finding], pixels: np.ndarray) -> tuple[Problem, ...]:
    """Tell masks of 0 and 255 whose 255 is ignored, where the second class is nowhere: 255 was meant to be it."""
    suspects = [pair.label for pair, finding in zip(pairs, findings, strict=True) if finding.binary]
    if not suspects or pixels[1] > 0:
        return ()
    more = f" and {len(suspects) - 1} more masks hold" if len(suspects) > 1 else " holds"
    return (Problem(suspects[0], f"this{more} only 0 and 255, and 255 is ignored; {BINARY_HINT}"),)


def _problem(source: Source, error: ValueError) -> Problem:
    return Problem(source, str(error).removeprefix(f"{source}: "))


def _told(size: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in size)


def _shown(findings: Iterable[Finding], total: int) -> Iterator[Finding]:
    """Pass findings on behind a progress bar that vanishes when done."""
    from rich.console import Console
    from rich.progress import track

    yield from track(findings, "checking files", total=total, console=Console(stderr=True), transient=True)
