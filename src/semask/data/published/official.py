"""Descriptions of published datasets: layout of the downloads, counts of images, readers of labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from semask.data.classes import Classes
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

Files = Mapping[str, Source]
"""The files of all downloads by their paths."""


class SplitFiles(NamedTuple):
    """The images and labels of one split in the downloads, by their stems."""

    images: dict[str, Source]
    labels: dict[str, Source]

    @property
    def complete(self) -> list[str]:
        """The stems of complete pairs, in order."""
        return sorted(self.images.keys() & self.labels.keys())


Gather = Callable[[Files], dict[str, SplitFiles]]


@dataclass(frozen=True, kw_only=True)
class Official:
    """A published dataset.

    data: the tree to be made, and its class table. counts: the images of every split. gather: finds images and labels
    in the downloads. read: returns the values of a label file of the tree for a label of the download; None copies
    label files unchanged. unlabelled: splits without public labels.
    """

    title: str
    downloads: tuple[str, ...]
    data: DataRecipe
    counts: Mapping[str, int]
    gather: Gather
    read: Callable[[Source], Integer[np.ndarray, "H W"]] | None = None
    unlabelled: frozenset[str] = frozenset()


def by_folder(images: str, labels: str) -> Gather:
    """Return a gatherer by patterns of the ends of paths; each pattern has the groups `split` and `stem`."""

    def gather(files: Files) -> dict[str, SplitFiles]:
        found: dict[str, SplitFiles] = {}
        for number, pattern in enumerate((images, labels)):
            for match, source in _matches(files, pattern):
                _add(found.setdefault(match["split"], SplitFiles({}, {}))[number], match["stem"], source)
        return found

    return gather


def by_list(images: str, labels: str, lists: Mapping[str, str]) -> Gather:
    """Return a gatherer by patterns with the group `stem`, and by lists of stems: split → end of the list's path."""

    def gather(files: Files) -> dict[str, SplitFiles]:
        all_images, all_labels = by_stem(files, images), by_stem(files, labels)
        listed = {split: read_list(files, path) for split, path in lists.items()}
        return {split: select(names, all_images, all_labels) for split, names in listed.items() if names}

    return gather


def by_stem(files: Files, pattern: str) -> dict[str, Source]:
    """Return the files whose paths end in the pattern, by its group `stem`."""
    found: dict[str, Source] = {}
    for match, source in _matches(files, pattern):
        _add(found, match["stem"], source)
    return found


def read_list(files: Files, path: str) -> list[str]:
    """Return the stems of a list, one a line; none without its file."""
    found = [source for name, source in files.items() if name == path or name.endswith(f"/{path}")]
    if not found:
        return []
    with found[0].open("rb") as file:
        lines = file.read().decode(errors="replace").split("\n")
    # a line may hold more columns after the stem
    return [line.split()[0] for line in lines if line.strip()]


def select(names: list[str], images: Mapping[str, Source], labels: Mapping[str, Source]) -> SplitFiles:
    """Return the existing images and labels of those names."""
    return SplitFiles({n: images[n] for n in names if n in images}, {n: labels[n] for n in names if n in labels})


def renumber(ids: Integer[np.ndarray, "H W"], classes: Classes, *, rest: int, largest: int) -> UInt8[np.ndarray, "H W"]:
    """Return official ids as values of the class table's label files; ids of no class become `rest`.

    Raises:
        ValueError: an id is less than 0 or larger than `largest`, the dataset's own.
    """
    if ids.size and (ids.min() < 0 or ids.max() > largest):
        raise ValueError(f"ids from {ids.min()} to {ids.max()}, but the dataset has 0 to {largest}; fetch it again")
    # one look-up per pixel
    table = np.full(largest + 1, rest, np.uint8)
    table[list(classes.official_ids)] = classes.values
    values: np.ndarray = table[ids]
    return values


def _matches(files: Files, pattern: str) -> list[tuple[re.Match[str], Source]]:
    ending = re.compile(rf"(?:^|/){pattern}$")
    return [(match, source) for path, source in files.items() if (match := ending.search(path))]


def _add(found: dict[str, Source], stem: str, source: Source) -> None:
    if stem in found:
        raise ValueError(f"{stem!r} is in the downloads twice: {found[stem]} and {source}; give each download once")
    found[stem] = source
