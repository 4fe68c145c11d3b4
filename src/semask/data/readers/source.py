"""Where a picture or a label is read from: a file, a stretch of an archive, a cell of a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive, by its path there; each kind of archive says how it is opened."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        """The name of the file, without its folders."""
        return PurePosixPath(self.member).name

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    def refuse_large(self, size: int, *, stored: int = 0) -> None:
        """Raise `Unreadable` for a member of too many bytes, unpacked or as they are stored."""
        if max(size, stored) > MAX_BYTES:
            raise Unreadable(
                f"{self}: {size} bytes, more than the {MAX_BYTES} that are read out of an archive; unpack the file"
            )
