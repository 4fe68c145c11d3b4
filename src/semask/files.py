"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

TEMPORARY = f".[1-9]*-{'[0-9a-f]' * 12}.tmp"
SHOWN = 80
"""Characters of a line in a message."""
STALE = 3600
"""[s] A temporary file that nobody has written to for longer was left by a killed process."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` when the block ends without an error.

    Folders are made. After an error the earlier file stays and the temporary one is removed. Of several writers at once
    the last one wins, and every version is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every writer, and a short one: that of `path` may be as long as names can be.
    part = path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}.tmp")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a folder, which replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}.tmp")
    try:
        yield part
        replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(part: Path, path: Path) -> None:
    """Put a finished folder in the place of `path` on the same disk, where there may be an earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb+") as content:
                os.fsync(content.fileno())
    # a folder that is not empty cannot be replaced at once
    earlier = path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}.tmp")
    if path.exists():
        os.replace(path, earlier)
    os.replace(part, path)
    _sync_folder(path.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Write new names in a folder to disk, where the system opens folders."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove_stale(parts: Iterable[Path]) -> None:
    """Remove those of the temporary files and folders that killed processes left; others may be renamed meanwhile."""
    for part in parts:
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def check_writable(folder: Path, *, flag: str = "--out") -> None:
    """Check before a computation that a folder can take its results; the folder is not made yet.

    Temporary files that killed processes left in it, or one folder below, are removed.

    Raises:
        ValueError: the folder cannot be made or written to; the message names the flag and the obstacle.
    """
    import tempfile  # not needed for help, which names flags alone

    nearest = folder
    try:
        remove_stale((*folder.glob(TEMPORARY), *folder.glob(f"*/{TEMPORARY}")))
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        # A trial file, not the permissions: root has all of them, even on a disk that is read-only.
        tempfile.TemporaryFile(dir=nearest).close()
    except NotADirectoryError as error:
        raise ValueError(
            f"{flag}: {str(folder)!r} is not a folder and cannot become one ({error.strerror}); choose another"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{flag}: the folder {str(nearest)!r} is not writable ({error.strerror}); choose another"
        ) from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON, whole or not at all; NaN and infinity, which JSON lacks, raise a ValueError."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as part:
        # File names may hold bytes that are no text; JSON reads them back from \\udcXX.
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


CAUSES = {
    "Expecting value": "a value is missing, has no double quotes, or follows a comma that is one too many",
    "Expecting property name": "a key in double quotes is missing, or the comma before is one too many",
    "Illegal trailing comma": "the comma after the last entry is one too many",
    "Expecting ':'": "the colon after a key is missing",
    "Expecting ','": "a comma or a closing bracket is missing before this place",
    "Unterminated string": "the text that begins here has no closing quote",
    "Invalid control character": "a text holds a line break or a tab; write \\n or \\t",
    "Invalid \\": "a text holds a single backslash; write it twice, or /",
    "Extra data": "the file goes on after its closing bracket",
}
"""Words for the errors of Python's parser."""


def parse_json(text: str, *, unique: bool = False) -> Any:
    """Return the values of a JSON text that a person wrote; `unique` refuses a key that is given twice.

    Raises:
        ValueError: the text is no JSON; the message has line, column and cause, and no file name.
    """

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Python would keep the last in silence
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"key {twice[0]!r} is given twice; keep one")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_twice if unique else None)
    except json.JSONDecodeError as error:
        cause = next((words for start, words in CAUSES.items() if error.msg.startswith(start)), error.msg)
        if error.pos >= len(text.rstrip()):
            cause = "the file ends too early" if text.strip() else "the file is empty"
        # the line, or of a long one its part up to the place
        line = (text.splitlines() or [""])[min(error.lineno, len(text.splitlines()) or 1) - 1]
        shown = line.strip() if len(line) <= SHOWN else f"… {line[max(0, error.colno - SHOWN) : error.colno].strip()} …"
        raise ValueError(f"no JSON at line {error.lineno}, column {error.colno}: {cause}: {shown}") from None
    except RecursionError:
        raise ValueError("no JSON that can be read: brackets lie too deep in one another") from None


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
