"""What a published dataset is: how its downloads are laid out, how many pictures it has, how its labels are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from semask.data.classes import UNKNOWN, Classes
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

Files = Mapping[str, Source]
"""The files of all downloads by their paths."""


class Found(NamedTuple):
    """The pictures and labels of one split by their stems, as downloads hold them."""

    images: dict[str, Source]
    labels: dict[str, Source]


Gather = Callable[[Files], dict[str, Found]]


@dataclass(frozen=True, kw_only=True)
class Official:
    """A published dataset.

    data: the tree that is made, and its class table. counts: the pictures of every split. gather: finds pictures and
    labels in the downloads. read: the values of a label file of the tree, out of a label of the download; None copies
    label files as they are. unlabelled: splits whose labels are not public.
    """

    title: str
    downloads: tuple[str, ...]
    data: DataRecipe
    counts: Mapping[str, int]
    gather: Gather
    read: Callable[[Source], Integer[np.ndarray, "H W"]] | None = None
    unlabelled: frozenset[str] = frozenset()


def by_folder(images: str, labels: str) -> Gather:
    """Return what finds files by patterns of their paths' ends; each has the groups `split` and `stem`."""

    def gather(files: Files) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for number, pattern in enumerate((images, labels)):
            for match, source in matches(files, pattern):
                put(found.setdefault(match["split"], Found({}, {}))[number], match["stem"], source)
        return found

    return gather


def by_list(images: str, labels: str, lists: Mapping[str, str]) -> Gather:
    """Return what finds files by patterns with the group `stem`, and splits by lists of stems: split → path's end."""

    def gather(files: Files) -> dict[str, Found]:
        all_images, all_labels = stems(files, images), stems(files, labels)
        listed = {split: read_list(files, path) for split, path in lists.items()}
        return {split: chosen(names, all_images, all_labels) for split, names in listed.items() if names}

    return gather


def stems(files: Files, pattern: str) -> dict[str, Source]:
    """Return the files whose paths end as the pattern says, by its group `stem`."""
    found: dict[str, Source] = {}
    for match, source in matches(files, pattern):
        put(found, match["stem"], source)
    return found


def read_list(files: Files, path: str) -> list[str]:
    """Return the stems that a list names, one a line; without its file, none."""
    found = [source for name, source in files.items() if name == path or name.endswith(f"/{path}")]
    if not found:
        return []
    with found[0].open("rb") as file:
        lines = file.read().decode(errors="replace").split("\n")
    return [line.split()[0] for line in lines if line.strip()]


def chosen(names: list[str], images: Mapping[str, Source], labels: Mapping[str, Source]) -> Found:
    """Return the pictures and labels of those names, as far as they are there."""
    return Found({n: images[n] for n in names if n in images}, {n: labels[n] for n in names if n in labels})


def matches(files: Files, pattern: str) -> list[tuple[re.Match[str], Source]]:
    """Return the files whose paths end as the pattern says, from a folder's name on."""
    ending = re.compile(rf"(?:^|/){pattern}$")
    return [(match, source) for path, source in files.items() if (match := ending.search(path))]


def put(found: dict[str, Source], stem: str, source: Source) -> None:
    """Add a file; a ValueError tells two of one stem."""
    if stem in found:
        raise ValueError(f"{stem!r} is in the downloads twice: {found[stem]} and {source}; give each download once")
    found[stem] = source


def renumbered(
    ids: Integer[np.ndarray, "H W"], classes: Classes, *, rest: int, largest: int
) -> UInt8[np.ndarray, "H W"]:
    """Return official ids as values of the class table's label files; `rest` stands for what is no class.

    Raises:
        ValueError: an id is less than 0 or larger than `largest`, the dataset's own.
    """
    if ids.size and (ids.min() < 0 or ids.max() > largest):
        raise ValueError(f"ids from {ids.min()} to {ids.max()}, but the dataset has 0 to {largest}; fetch it again")
    table = np.full(largest + 1, rest, np.uint8)
    table[list(classes.official_ids)] = classes.values
    renamed: np.ndarray = table[ids]
    return renamed


def unknown_values(values: Integer[np.ndarray, "H W"], classes: Classes) -> list[int]:
    """Return the values that the class table does not list."""
    return sorted(set(values[classes.encode(values) == UNKNOWN].tolist()))
