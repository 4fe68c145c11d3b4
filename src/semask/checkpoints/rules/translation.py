"""What a rule makes of a published file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from semask.recipes import Recipe


class Translation(NamedTuple):
    """A published file in our names.

    source: the tensors as they are in the file. names: our name of a tensor → its name there. recipe: the one asked
    for, with what this layout computes otherwise. layout: whose it is, in words.
    """

    tensors: dict[str, Tensor]
    source: Mapping[str, Tensor]
    names: dict[str, str]
    recipe: Recipe
    layout: str


class Rule(Protocol):
    """A file of this folder."""

    CLASS_TENSORS: re.Pattern[str]
    """Our tensors whose first axis is the classes."""

    def translate(self, tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
        """Bring names, shapes and recipe into ours; a tensor that is not known keeps its name."""
        ...


def names_in_file(tensors: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, str]:
    """Return our name of every tensor → its name in the file, without those that `rename` has no name for."""
    return {ours: key for key in tensors if (ours := rename(key)) is not None}


def replace_beginning(key: str, replacements: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of a key by the first (pattern, ours) that matches it; None when none does."""
    for pattern, ours in replacements:
        name, count = re.subn(f"^{pattern}", ours, key)
        if count:
            return name
    return None
