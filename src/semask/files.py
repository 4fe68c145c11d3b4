"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

TEMPORARY = f".[1-9]*-{'[0-9a-f]' * 12}.tmp"
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
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(folder: Path, *, flag: str = "--out") -> None:
    """Check before a computation that a folder can take its results; the folder is not made yet.

    Temporary files that killed processes left in it, or one folder below, are removed.

    Raises:
        ValueError: the folder cannot be made or written to; the message names the flag and the obstacle.
    """
    import tempfile  # not needed for help, which names flags alone

    nearest = folder
    try:
        for part in (*folder.glob(TEMPORARY), *folder.glob(f"*/{TEMPORARY}")):
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink(missing_ok=True)
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


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
