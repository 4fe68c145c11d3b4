"""Sources of images and labels: files, members of archives, cells of tables."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal, Protocol, runtime_checkable

MAX_BYTES = 2**28
"""The largest file [bytes] that is read out of an archive; it can claim any size."""
SYSTEM_NAMES = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db")
) | {"desktop.ini"}
"""Folders and files that operating systems and storage devices add, in lower case."""


MAX_PIXELS = 2**27
"""The largest image [px] that is decoded; a small file can claim any size."""


class UnsupportedFile(ValueError):
    """A file is whole, but of an unsupported kind; the message has no file name yet."""


class Unreadable(ValueError):
    """A source cannot be opened; the message names it."""


@runtime_checkable
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


def is_hidden(path: str) -> bool:
    """Return whether a path below a root is no data: a part of it begins with "." or is a system's own.

    Only the parts below the root count: ~/.cache/data is a root like any other.
    """
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in path.split("/"))


def first_bytes(source: Source) -> bytes:
    """The beginning of a file, which shows its format whatever its name; nothing where it cannot be opened.

    What is wrong then is reported by the reader that opens it next.
    """
    try:
        with source.open("rb") as file:
            return file.read(26)
    except (OSError, ValueError):
        return b""


def as_source(given: str | Source) -> Source:
    """Return the source of a path."""
    return Path(given) if isinstance(given, str) else given
