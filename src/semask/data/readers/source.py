"""Sources of images and labels: files, members of archives, cells of tables."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal, Protocol

MAX_BYTES = 2**28
"""The largest file [bytes] that is read out of an archive; it can claim any size."""


class Unreadable(ValueError):
    """A source cannot be opened; the message names it."""


class Source(Protocol):
    """An origin of bytes; a `pathlib.Path` is one.

    `str()` names it in messages, differently for any two sources. Sources can be compared, be keys of a dictionary and
    go to other processes: they hold no open file.
    """

    @property
    def name(self) -> str:
        """The name of the file, without its folders."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it for reading.

        Raises:
            Unreadable, OSError: it cannot be opened.
        """


def as_source(given: str | Source) -> Source:
    """Return the source of a path."""
    return Path(given) if isinstance(given, str) else given
