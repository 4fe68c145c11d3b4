"""manifest.jsonl: one line per finished item of a prediction run, from which a killed run goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from semask.files import write_text
from semask.recipes.prediction import Shard

NAMES = "manifest*.jsonl"
HEADER = "settings"
"""The key that only the first line has."""


class Line(NamedTuple):
    """One finished item.

    item: name of its results. source: its file. bytes: size of that file, None if unknown. height, width: of the image
    [px]. labels: SHA-256 of the file of its label map. shares: of every class. seconds: from reading to writing.
    error: why it failed; then only the first three are known. more: what kinds of items add, such as the disagreement
    of windows.
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


class Manifest:
    """The finished items of all shards of a run; lines of this shard are added, each on disk before the next.

    Raises:
        ValueError: The folder holds results of other settings, or another process works on the same shard.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], shard: Shard, *, overwrite: bool = False) -> None:
        self.out, self.path = out, out / shard.manifest
        out.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(out / f".{shard.manifest}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another `semask predict` writes to {str(out)!r}; wait for it, choose another --out, or give both a "
                "--shard of their own, such as 1/2 and 2/2"
            ) from None
        # JSON's own types, as they are read back
        self.settings = json.loads(json.dumps(settings))
        self.lines: dict[str, Line] = {}
        for path in sorted(out.glob(NAMES)):
            self._read(path, overwrite=overwrite)
        is_new = not self.path.exists()
        self._file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
        if is_new:
            self._add({HEADER: self.settings})

    def _read(self, path: Path, *, overwrite: bool) -> None:
        header: dict[str, Any] | None = None
        lines: dict[str, Line] = {}
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
                        line = Line(**values)
                        lines[line.item] = line
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{path}: no manifest of a prediction ({error}); choose another --out") from None
                whole += len(text)
        if header is not None and header != self.settings:
            if not overwrite:
                keys = [key for key in {**header, **self.settings} if header.get(key) != self.settings.get(key)]
                raise ValueError(
                    f"{str(self.out)!r} holds results of another run, which differs in {', '.join(keys)}; choose "
                    "another --out, or begin anew with --overwrite"
                )
            path.unlink()
            return
        if overwrite:
            path.unlink()
            return
        if path == self.path and whole < path.stat().st_size:
            os.truncate(path, whole)
            if not whole:
                path.unlink()
        self.lines |= lines

    def add(self, line: Line) -> None:
        """Add a finished item; its line is on disk when this returns."""
        self.lines[line.item] = line
        self._add({key: value for key, value in line._asdict().items() if value not in (None, {}) or key == "bytes"})

    def _add(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def write_summary(self, classes: Sequence[str]) -> Path:
        """Write summary.csv: size and class shares [%] of every item of all shards, in the order of their names."""
        for path in sorted(self.out.glob(NAMES)):
            if path != self.path:
                self._read(path, overwrite=False)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        done = sorted((line for line in self.lines.values() if line.error is None), key=lambda line: line.item)
        areas = any("areas_m2" in line.more for line in done)
        writer.writerow(["item", "height", "width", *classes, *(f"{name} [m²]" for name in classes if areas)])
        for line in done:
            shares = [f"{100 * line.shares.get(name, 0):.4f}" for name in classes]
            square = [line.more.get("areas_m2", {}).get(name, "") for name in classes] if areas else []
            writer.writerow([line.item, line.height, line.width, *shares, *square])
        write_text(self.out / "summary.csv", text.getvalue())
        return self.out / "summary.csv"

    def close(self) -> None:
        """Close the file and let other processes in."""
        self._file.close()
        self._lock.release()


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files, one after the other."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()
