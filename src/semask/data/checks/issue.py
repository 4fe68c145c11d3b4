"""Issues of a data set, and their kinds."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from semask.data.readers.source import Source

Kind = Literal[
    "split", "unreadable", "size", "orientation", "values", "binary", "zero", "ignored", "classes", "leak", "duplicate",
    "bands", "flat", "extent",
]  # fmt: skip
"""split: files are missing or not paired; values: outside the label map; zero: the meaning of value 0; leak: one image
in two splits; bands: channels and their range; flat: an image of one brightness; extent: very small or large."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds, in the order of reports."""


class Issue(NamedTuple):
    """An issue of one file, or (source None) of the data set as a whole; the message holds the fix.

    An error makes training fail, or go wrong in silence.
    """

    kind: Kind
    message: str
    source: Source | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return self.message if self.source is None else f"{self.source}: {self.message}"
