"""The result of a rule, and the steps that rules share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from semask.recipes import Recipe

PROJECTIONS = ("query", "key", "value")
"""Projections of attention: three tensors, or one that holds them in this order."""


class Translation(NamedTuple):
    """A published file in our names.

    source: the tensors of the file. names: our name of a tensor → its name in the file. recipe: the requested one, with
    the numerics of the layout. layout: its origin, in words.
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
    """Our name of every tensor → its name in the file, without tensors that `rename` drops by None."""
    return {ours: key for key in tensors if (ours := rename(key)) is not None}


def replace_beginning(key: str, replacements: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of a key by the first (pattern, ours) that matches it; None when none does."""
    for pattern, ours in replacements:
        name, count = re.subn(f"^{pattern}", ours, key)
        if count:
            return name
    return None


def split_projections(name: str, value: Tensor, joined: re.Pattern[str]) -> list[tuple[str, Tensor]]:
    """The three projections of a joined one as `….query.weight` and so on, any other tensor as it is.

    `joined` has two groups: the part before the projection's name, and weight or bias.
    """
    # a damaged tensor stays whole and is reported by its shape
    match = joined.fullmatch(name)
    if match is None or not value.ndim or len(value) % len(PROJECTIONS):
        return [(name, value)]
    names = (f"{match[1]}{part}.{match[2]}" for part in PROJECTIONS)
    return list(zip(names, value.chunk(len(PROJECTIONS)), strict=True))


def join_projections(tensors: Mapping[str, Tensor], queries: re.Pattern[str], joined: str) -> dict[str, Tensor]:
    """The tensors with every complete triple as one, in the place of the query's.

    `queries` matches a query projection, with the groups of `split_projections`; `joined` has them as {0} and {1}.
    """
    whole = dict(tensors)
    for name in tensors:
        match = queries.fullmatch(name)
        names = [f"{match[1]}{part}.{match[2]}" for part in PROJECTIONS] if match else []
        parts = [tensors[part] for part in names if part in tensors]
        # incomplete triples stay, and are reported by their names
        if match and len(parts) == len(PROJECTIONS) and len({part.shape for part in parts}) == 1 and parts[0].ndim:
            for part in names:
                del whole[part]
            whole[joined.format(match[1], match[2])] = torch.cat(parts)
    return whole
