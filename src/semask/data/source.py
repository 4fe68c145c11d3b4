"""Where a picture or a label is read from: a file, a stretch of an archive, a cell of a table."""

from __future__ import annotations

from typing import BinaryIO, Literal, Protocol

MAX_BYTES = 2**28
"""The largest file [bytes] that is read out of an archive; it can claim any size."""


class Unreadable(ValueError):
    """A source cannot be opened; the message names it."""


class Source(Protocol):
    """Something to read bytes from; a `pathlib.Path` is one.

    `str()` tells it in messages, and no two sources tell the same. Sources can be compared, be keys of a dictionary and
    go to other processes: they hold no open file.
    """

    @property
    def name(self) -> str:
        """The name of the file, without its folders."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it anew for reading; `Unreadable` or an OSError tells what is wrong."""
