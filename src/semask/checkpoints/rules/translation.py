"""What a rule makes of a published file."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
