"""Two class tables of one model: numbers decide which class is which, names whether that can be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHOWN = 5
"""Renamed classes in a message."""


class NameChanges(NamedTuple):
    """Numbers of the classes that have a new name, and of those that have the earlier name of another class."""

    renamed: tuple[int, ...]
    moved: tuple[int, ...]


def name_changes(before: Sequence[str], after: Sequence[str]) -> NameChanges:
    """Compare the names of two tables, class by class; case and outer spaces do not count.

    Published tables spell some names with a space at the end.

    >>> name_changes(("sky", "car", "tree"), ("Sky ", "vehicle", "car"))
    NameChanges(renamed=(1,), moved=(2,))
    """
    old, new = ([name.strip().casefold() for name in names] for names in (before, after))
    differing = [index for index, name in enumerate(new) if old[index : index + 1] != [name]]
    moved = tuple(index for index in differing if new[index] in old)
    return NameChanges(tuple(index for index in differing if index not in moved), moved)


def check_names(before: Sequence[str], after: Sequence[str], *, places: tuple[str, str], fix: str) -> str | None:
    """Check that two tables can be of the same classes, and return a note on renamed classes, None without one.

    Args:
        before: Names of the one table, by number.
        after: Names of the other.
        places: What has the names, such as "the checkpoint" and "the data set".
        fix: What to do about other classes.

    Raises:
        ValueError: the numbers of classes differ, or a class has the name of another.
    """
    here, there = places
    if len(before) != len(after):
        raise ValueError(f"{here} has {len(before)} classes, {there} {len(after)}; {fix}")
    changes = name_changes(before, after)
    if changes.moved:
        index = changes.moved[0]
        raise ValueError(
            f"class {index} is {before[index]!r} in {here} and {after[index]!r} in {there}, where another class of "
            f"{here} has that name: the order differs; {fix}"
        )
    if not changes.renamed:
        return None
    listed = ", ".join(f"{index} {before[index]!r} is {after[index]!r}" for index in changes.renamed[:SHOWN])
    more = f" and {len(changes.renamed) - SHOWN} more" if len(changes.renamed) > SHOWN else ""
    return f"classes have other names in {there} than in {here}, and their numbers decide: {listed}{more}"
