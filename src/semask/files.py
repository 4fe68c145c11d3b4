"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    The folder is made. After an error what was there before stays, and what was written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(folder: Path, *, flag: str = "--out") -> None:
    """Refuse a folder that results cannot go to, before anything is computed; none is made yet.

    A ValueError names the flag, and what is in the way.
    """
    import tempfile  # not needed for help, which names flags alone

    there = folder
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        # Rights alone do not tell: root has them everywhere, a disk that cannot be written to included.
        tempfile.TemporaryFile(dir=there).close()
    except NotADirectoryError as error:
        raise ValueError(f"{flag}: {str(folder)!r} is no folder and cannot be made one ({error.strerror})") from error
    except OSError as error:
        told = f"nothing may be written to the folder {str(there)!r} ({error.strerror}); choose another"
        raise ValueError(f"{flag}: {told}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values, whole or not at all; numbers that JSON has no name for are refused."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as part:
        # File names may hold bytes that are no text; JSON reads them back from \\udcXX.
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
