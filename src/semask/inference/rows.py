"""Maps of any height on disk, written and read by rows: results of a raster before they are encoded."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from semask.files import write_json

STATE = "state.json"


def remove_state(folder: Path) -> None:
    """Remove what a killed run would go on from, and the folder of all such if it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def read_state(folder: Path) -> dict[str, Any]:
    """The state in a folder; empty if there is none."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


class RowFile:
    """A map H W of one type in a raw file, row after row; slices of its rows are read as arrays."""

    def __init__(self, path: Path, height: int, width: int, dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, (height, width), dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, step = rows.indices(self.shape[0])
        offset, count = first * self.shape[1], max(0, last - first) * self.shape[1]
        values = np.fromfile(self.path, self.dtype, count=count, offset=offset * self.dtype.itemsize)
        return values.reshape(-1, self.shape[1])[::step]


class RowStore:
    """Raw maps in a folder that grow by strips; what a killed run has finished is kept for the next one.

    done: rows that are finished in all maps.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], key: dict[str, Any]) -> None:
        """`key` says what the maps were made from; maps with another key are begun anew."""
        self.folder, self.shape, self.key = folder, shape, json.loads(json.dumps(key))
        self.done = 0
        self.notes: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        state = read_state(folder)
        if state.get("key") == self.key:
            self.done, self.notes = int(state["done"]), state["notes"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, maps: dict[str, np.ndarray], **notes: Any) -> None:
        """Add a strip, r W of every map, and what else the next run has to know; on disk when this returns."""
        for name, values in maps.items():
            file = self._files.get(name)
            if file is None:
                path = self.folder / f"{name}.raw"
                path.touch()
                file = self._files[name] = path.open("r+b")
                # rows of a strip that was not finished
                file.truncate(self.done * self.shape[1] * values.dtype.itemsize)
            file.seek(self.done * self.shape[1] * values.dtype.itemsize)
            file.write(np.ascontiguousarray(values).data)
            file.flush()
            os.fsync(file.fileno())
        self.done += len(next(iter(maps.values())))
        self.note(**notes)

    def note(self, **notes: Any) -> None:
        """Keep on disk what the next run has to know, beside what it knows already."""
        self.notes |= notes
        write_json(self.folder / STATE, {"key": self.key, "done": self.done, "notes": self.notes})

    def map(self, name: str, dtype: Any = np.uint8) -> RowFile:
        """A finished map."""
        return RowFile(self.folder / f"{name}.raw", *self.shape, np.dtype(dtype))

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()
