"""manifest.jsonl: one line per finished item of a prediction run, from which a killed run goes on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from semask.files import atomic_write
from semask.inference.sinks import FILES, MANIFESTS, UNFINISHED, frame_files, item_files
from semask.recipes.prediction import Shard

HEADER = "settings"
"""The key that only the first line has."""


class Line(NamedTuple):
    """One finished item.

    item: name of its results. source: its file. bytes: size of that file, None if unknown. height, width: of the image
    [px]. labels: SHA-256 of the file of its label map. shares: of every class. seconds: from reading to writing.
    error: why it failed; then only the first three are known. more: what kinds of items add, such as the disagreement
    of windows. changed: when the source was last written to [ns]. finished: when the line was written [s since 1970].
    """

    item: str
    source: str
    bytes: int | None
    error: str | None = None
    height: int = 0
    width: int = 0
    labels: str = ""
    shares: dict[str, float] = {}  # noqa: RUF012
    seconds: float = 0.0
    more: dict[str, Any] = {}  # noqa: RUF012
    changed: int | None = None
    finished: float = 0.0

    @property
    def is_image(self) -> bool:
        """Whether the source is one, though it may be broken."""
        return bool(self.more.get("is_image", True))


class Manifest:
    """The finished items of all shards of a run; lines of this shard are added, each on disk before the next.

    lines: the last line of every item without its shares and measures, which `read` reads from disk: those of a
    million items would fill the memory.

    Raises:
        ValueError: The folder holds results of other settings, or another process works on the same shard.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], shard: Shard, *, overwrite: bool = False) -> None:
        self.out, self.path = out, out / shard.manifest
        out.mkdir(parents=True, exist_ok=True)
        # JSON's own types, as they are read back
        self.settings = json.loads(json.dumps(settings))
        self.lines: dict[str, Line] = {}
        # the file of an item's line and its place there, and whether any line has areas
        self._places: dict[str, tuple[Path, int]] = {}
        self._areas = False
        # among shards: one removes earlier results, or writes their summary, at a time
        self._guard = FileLock(out / ".manifest.lock")
        with ExitStack() as opened:
            opened.callback(self._locked(self.path).release)
            with self._guard:
                self._begin(overwrite=overwrite)
            self._file = opened.enter_context(self.path.open("ab"))
            self._opened = opened.pop_all()

    def _locked(self, path: Path) -> FileLock:
        """Take the lock of a shard, which its process holds."""
        lock = FileLock(self.out / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another `semask predict` writes to {str(self.out)!r}; wait for it, choose another --out, or give "
                "both a --shard of their own, such as 1/2 and 2/2"
            ) from None
        return lock

    def _begin(self, *, overwrite: bool) -> None:
        """Read what is finished, or remove results of other settings; the manifest has its first line then."""
        paths = sorted(self.out.glob(MANIFESTS))
        headers = [self._read(path) for path in paths]
        others = [header for header in headers if header not in (None, self.settings)]
        if others and not overwrite:
            before = others[0] or {}
            keys = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
            raise ValueError(
                f"{str(self.out)!r} holds results of another run, which differs in {', '.join(keys)}; choose "
                "another --out, or begin anew with --overwrite"
            )
        if others:
            with ExitStack() as held:
                for path in paths:
                    if path != self.path:
                        held.callback(self._locked(path).release)
                self._clear()
        if not self.path.exists():
            with self.path.open("wb") as file:
                self._write(file, {HEADER: self.settings})

    def _clear(self) -> None:
        """Remove the results of all items, the manifests last: they say what there is to remove."""
        for name in self.lines:
            for path in (*item_files(self.out, name), *frame_files(self.out, name)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.out / UNFINISHED, ignore_errors=True)
        for pattern in reversed(FILES):
            for path in self.out.glob(pattern):
                path.unlink()
        self.lines.clear()
        self._places.clear()
        self._areas = False

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Take the lines of a manifest that are newer than those known, and return its settings."""
        header: dict[str, Any] | None = None
        whole = 0
        with path.open("rb") as file:
            for text in file:
                # a killed run leaves half a line at most, the last one
                if not text.endswith(b"\n"):
                    break
                try:
                    values = json.loads(text)
                    header = values[HEADER] if header is None else header
                    if HEADER not in values:
                        self._take(Line(**values), path, whole)
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{path}: no manifest of a prediction ({error}); choose another --out") from None
                whole += len(text)
        if path == self.path and whole < path.stat().st_size:
            os.truncate(path, whole)
            if not whole:
                path.unlink()
        return header

    def _take(self, line: Line, path: Path, place: int) -> None:
        known = self.lines.get(line.item)
        if known is None or line.finished >= known.finished:
            self._areas = self._areas or "areas_m2" in line.more
            more = {} if line.is_image else {"is_image": False}
            self.lines[line.item] = line._replace(shares={}, more=more)
            self._places[line.item] = path, place

    def add(self, line: Line) -> None:
        """Add a finished item; its line is on disk when this returns."""
        line = line._replace(finished=round(time.time(), 3))
        place = self._file.tell()
        self._write(
            self._file,
            {key: value for key, value in line._asdict().items() if value not in (None, {}) or key == "bytes"},
        )
        self._take(line, self.path, place)

    def _write(self, file: BinaryIO, values: Mapping[str, Any]) -> None:
        # names may hold bytes that are no text
        file.write(json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        file.flush()
        os.fsync(file.fileno())

    def read(self, names: Iterable[str]) -> Iterator[Line]:
        """Yield the whole lines of finished items, as they are on disk."""
        with ExitStack() as opened:
            files: dict[Path, BinaryIO] = {}
            for name in names:
                path, place = self._places[name]
                if path not in files:
                    files[path] = opened.enter_context(path.open("rb"))
                files[path].seek(place)
                yield Line(**json.loads(files[path].readline()))

    def write_summary(self, classes: Sequence[str], names: Iterable[str]) -> Path:
        """Write summary.csv: size and class shares [%] of the items `names`, of all shards, in order.

        Items of earlier calls that are not among these stay in the manifest alone.
        """
        path = self.out / "summary.csv"
        # the last of several shards has the lines of all
        with self._guard:
            for other in sorted(self.out.glob(MANIFESTS)):
                if other != self.path:
                    self._read(other)
            done = [name for name in names if name in self.lines and self.lines[name].error is None]
            with atomic_write(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.writer(file, lineterminator="\n")
                square = classes if self._areas else ()
                writer.writerow(
                    [
                        "item",
                        "height",
                        "width",
                        *(f"{name} [%]" for name in classes),
                        *(f"{name} [m²]" for name in square),
                    ]
                )
                for line in self.read(sorted(done)):
                    shares = [f"{100 * line.shares.get(name, 0):.4f}" for name in classes]
                    areas = line.more.get("areas_m2", {})
                    writer.writerow([line.item, line.height, line.width, *shares, *(areas.get(n, "") for n in square)])
        return path

    def close(self) -> None:
        """Close the file and let other processes in."""
        self._opened.close()


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files, one after the other."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()
