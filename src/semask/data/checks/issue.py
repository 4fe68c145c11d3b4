"""What is wrong with a data set."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from semask.data.readers.source import Source

Kind = Literal[
    "split",
    "unreadable",
    "size",
    "orientation",
    "values",
    "binary",
    "zero",
    "ignored",
    "classes",
    "leak",
    "duplicate",
    "bands",
    "flat",
    "extent",
]
"""split: files that are not there, or not paired; values: outside the label map; zero: what value 0 means; leak: one
picture in two splits; bands: channels and their range; flat: a picture of one brightness; extent: very small or
large."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order they are told in."""


class Problem(NamedTuple):
    """What is wrong and how to mend it, with a file or (source None) with the data set as a whole.

    grave: training would fail, or go wrong in silence.
    """

    kind: Kind
    message: str
    source: Source | None = None
    grave: bool = True

    def __str__(self) -> str:
        return self.message if self.source is None else f"{self.source}: {self.message}"
