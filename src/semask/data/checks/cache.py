"""Facts of files kept between runs, by content: the same bytes are looked at once on a machine.

One SQLite file in the user's cache folder. It is never needed: broken, locked or read-only, it is done without.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from semask.data.checks.file_stats import ImageFacts, LabelFacts, PictureFacts
from semask.data.readers.source import Source

FILE = "facts-1.sqlite"
"""Its number rises when facts change, so that old ones are not read."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, record TEXT NOT NULL, day INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stamps (stamp TEXT PRIMARY KEY, digest TEXT NOT NULL, day INTEGER NOT NULL);
"""
CHUNK = 2**20
KEPT_DAYS = 180
PENDING = 256
"""Records written at once."""
SETTLED = 2.0
"""[s] A file changed more recently has no stamp: one more change might leave size and time the same."""

Facts = ImageFacts | LabelFacts
"""What could not be read is not kept: a codec that is installed since, or another release, may read it."""


def cache_folder() -> Path:
    """Return the folder for what may be made again: SEMASK_CACHE, or semask in the user's cache folder."""
    if own := os.environ.get("SEMASK_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "semask"


class FactsStore:
    """Facts by what they are of (`kind`) and the SHA-256 of the file; for use in a `with` block.

    Threads may share it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._day = int(time.time() // 86400)
        self._facts: list[tuple[str, str, int]] = []
        self._stamps: list[tuple[str, str, int]] = []
        self._database = _opened((folder or cache_folder()) / FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What was found is kept when the run is interrupted, too.
        with self._lock:
            self._write()
            self._database.close()

    def digest(self, source: Source, *, trust_stamp: bool) -> str:
        """Return the SHA-256 of a source's bytes, hexadecimal; an OSError or ValueError if it cannot be opened.

        `trust_stamp` takes a file of the same path, size and time of change as one seen before for that one.
        """
        stamp = _stamp(source)
        if trust_stamp and stamp and (known := self._find("SELECT digest FROM stamps WHERE stamp = ?", stamp)):
            return known
        hashed = hashlib.sha256()
        with closing(source.open("rb")) as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
        digest = hashed.hexdigest()
        if stamp:
            self._add(self._stamps, stamp, digest)
        return digest

    def get(self, kind: str, digest: str) -> Facts | None:
        """Return what is known of that content, or None."""
        record = self._find("SELECT record FROM facts WHERE key = ?", f"{kind} {digest}")
        return None if record is None else _restored(record)

    def put(self, kind: str, digest: str, facts: Facts) -> None:
        """Keep what was found."""
        self._add(self._facts, f"{kind} {digest}", json.dumps([type(facts).__name__, *facts], allow_nan=False))

    def _find(self, query: str, key: str) -> str | None:
        with self._lock, suppress(sqlite3.Error):
            row = self._database.execute(query, (key,)).fetchone()
            return str(row[0]) if row else None
        return None

    def _add(self, pending: list[tuple[str, str, int]], key: str, value: str) -> None:
        with self._lock:
            pending.append((key, value, self._day))
            if len(self._facts) + len(self._stamps) >= PENDING:
                self._write()

    def _write(self) -> None:
        with suppress(sqlite3.Error), self._database:
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", self._facts)
            self._database.executemany("INSERT OR REPLACE INTO stamps VALUES (?, ?, ?)", self._stamps)
        self._facts.clear()
        self._stamps.clear()


def _opened(path: Path) -> sqlite3.Connection:
    """Open the store, anew in place of a broken one, or in memory where files cannot be used."""
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _connected(str(path))
        except (OSError, sqlite3.OperationalError):
            break
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
    return _connected(":memory:")


def _connected(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # losing it costs only time
        database.executescript(SCHEMA)
        oldest = int(time.time() // 86400) - KEPT_DAYS
        with database:
            for table in ("facts", "stamps"):
                database.execute(f"DELETE FROM {table} WHERE day < ?", (oldest,))
    except sqlite3.Error:
        database.close()
        raise
    return database


def _stamp(source: Source) -> str:
    """Return what changes whenever a file does, or nothing for what is no settled file."""
    if not isinstance(source, Path):
        return ""
    told = source.stat()
    if time.time() - told.st_mtime < SETTLED:
        return ""
    name = f"{source.resolve()}\0{told.st_size}\0{told.st_mtime_ns}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def _restored(record: str) -> Facts | None:
    """Return facts from their JSON; None for what is not of their form."""
    try:
        kind, *values = json.loads(record)
        return _READERS[kind](*values)
    except (ValueError, TypeError, KeyError):
        return None


def _image(height: int, width: int, orientation: int, picture: list[Any] | None) -> ImageFacts:
    if picture is None:
        return ImageFacts(int(height), int(width), int(orientation))
    mean, square, signature, highest, see_through = picture
    bits = None if signature is None else int(signature)
    means, squares = tuple(map(float, mean)), tuple(map(float, square))
    pixels = PictureFacts(means, squares, bits, float(highest), bool(see_through))
    return ImageFacts(int(height), int(width), int(orientation), pixels)


def _label(height: int, width: int, orientation: int, palette: bool, values: list[list[int]]) -> LabelFacts:
    counts = tuple((int(value), int(count)) for value, count in values)
    return LabelFacts(int(height), int(width), int(orientation), bool(palette), counts)


_READERS: dict[str, Callable[..., Facts]] = {
    ImageFacts.__name__: _image,
    LabelFacts.__name__: _label,
}
