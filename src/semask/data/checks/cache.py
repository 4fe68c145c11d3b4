"""Cache of file statistics, by content: a machine measures the same bytes once.

One text file in the user's cache folder holds a record per line: key, day and JSON, separated by tabs. Processes append
whole lines with O_APPEND, so that several may write at once; the last line of a key wins, and unreadable lines are
skipped. Programs run without the cache where it is broken or read-only.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from semask.data.checks.file_stats import ImageStats, LabelStats, PixelStats, StoredRange
from semask.data.readers.source import Source
from semask.files import atomic_write

FILE = "file-stats-2.tsv"
"""The number rises whenever the form of statistics changes, so that old ones are not read."""
CHUNK = 2**20
KEPT_DAYS = 180
PENDING = 256
"""Records written at once."""
SETTLED = 2.0
"""[s] A file changed more recently has no stamp: one more change might leave size and time the same."""


def cache_folder() -> Path:
    """Return the folder of reproducible data: SEMASK_CACHE, or semask in the user's cache folder."""
    if own := os.environ.get("SEMASK_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "semask"


class StatsCache:
    """Statistics by the kind of measurement and the SHA-256 of the file; for use in a `with` block and by threads.

    Read failures are not kept: a codec that is installed since, or another release, may read the file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / FILE
        self._lock = threading.Lock()
        self._today = int(time.time() // 86400)
        self._pending: list[str] = []
        self._lines: dict[str, str] = {}
        # read all records, and rewrite the file when most of its lines are old or superseded
        with suppress(OSError):
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            for line in lines:
                key, _, rest = line.partition("\t")
                day, _, record = rest.partition("\t")
                if record.endswith("\n") and day.isdecimal() and int(day) >= self._today - KEPT_DAYS:
                    self._lines[key] = line
            if len(self._lines) < sum(line != "\n" for line in lines) / 2:
                # lines that another process appends meanwhile are lost, which costs only time
                with atomic_write(self.path) as part:
                    part.write_text("".join(self._lines.values()), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # an interrupted run keeps its measurements, too
        with self._lock:
            self._flush()

    def digest(self, source: Source, *, trust_stamp: bool) -> str:
        """Return the SHA-256 of a source's bytes, hexadecimal.

        `trust_stamp` takes the digest of an earlier run for a file of the same path, size and time of change.

        Raises:
            OSError, ValueError: the source cannot be opened.
        """
        stamp = ""
        if isinstance(source, Path):
            # path, size and time of change, unless the file may be changing still
            state = source.stat()
            if time.time() - state.st_mtime >= SETTLED:
                name = f"{source.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
                stamp = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        if trust_stamp and stamp and isinstance(known := self._find(stamp), str):
            return known
        hashed = hashlib.sha256()
        with closing(source.open("rb")) as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
        if stamp:
            self._add(stamp, hashed.hexdigest())
        return hashed.hexdigest()

    def get(self, kind: str, digest: str) -> ImageStats | LabelStats | StoredRange | None:
        """Return the statistics of a content, or None."""
        try:
            match self._find(f"{kind} {digest}"):
                case ["ImageStats", height, width, orientation, None]:
                    return ImageStats(int(height), int(width), int(orientation))
                case ["ImageStats", height, width, orientation, [mean, square, bits, highest, transparent]]:
                    means, squares = tuple(map(float, mean)), tuple(map(float, square))
                    bits = None if bits is None else int(bits)
                    pixels = PixelStats(means, squares, bits, float(highest), bool(transparent))
                    return ImageStats(int(height), int(width), int(orientation), pixels)
                case ["LabelStats", height, width, orientation, palette, values, lossy]:
                    counts = tuple((int(value), int(count)) for value, count in values)
                    colours = tuple(map(int, palette))
                    return LabelStats(int(height), int(width), int(orientation), colours, counts, bool(lossy))
                case ["StoredRange", str(name), lowest, highest]:
                    return StoredRange(name, float(lowest), float(highest))
        except (ValueError, TypeError):
            pass
        return None

    def put(self, kind: str, digest: str, stats: ImageStats | LabelStats | StoredRange) -> None:
        """Keep statistics."""
        self._add(f"{kind} {digest}", [type(stats).__name__, *stats])

    def _find(self, key: str) -> Any:
        with suppress(ValueError):
            return json.loads(self._lines.get(key, "null").rpartition("\t")[2])
        return None

    def _add(self, key: str, value: object) -> None:
        line = f"{key}\t{self._today}\t{json.dumps(value, allow_nan=False)}\n"
        with self._lock:
            self._lines[key] = line
            self._pending.append(line)
            if len(self._pending) >= PENDING:
                self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                # one call to the system, so that lines of other processes are not interleaved; the line break before
                # them ends a line that an interrupted process left unfinished
                os.write(handle, "".join(("\n", *self._pending)).encode())
            finally:
                os.close(handle)
        self._pending.clear()
