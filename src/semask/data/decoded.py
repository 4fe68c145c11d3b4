"""Decoded images and labels of a training set, so that each file is decoded once in a run.

They lie in files that are mapped into memory: loading processes share them in the system's page cache, what does not
fit there stays on the disk, and a crop reads the pages of its rows alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from semask.data.checks.file_stats import ImageStats
from semask.data.checks.scan import scan
from semask.data.pairs import Pair
from semask.data.readers.raster import ImageTensor, is_deep
from semask.files import atomic_write
from semask.recipes.recipe import DataRecipe

Decoded = tuple[ImageTensor, UInt8[Tensor, "H W"]]
PREFIX = "semask-decoded-"
"""Names of folders begin so, and go on with the process that made them."""
SPARE = 2.0
"""The folder must have room for so many times the images."""


class DecodedPairs:
    """Pairs of a training set as they were decoded, in a folder that goes when this object does."""

    def __init__(self, data: DataRecipe) -> None:
        # RGB of 8 bits is kept as decoders give it, channels last: torch resizes that three times as fast
        self.rgb = data.channels == 3 and data.value_range is None
        _remove_orphans()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())

    def get(self, index: int, decode: Callable[[], Decoded]) -> Decoded:
        """Return a pair, decoded at its first use; processes that come first at the same time write the same."""
        files = [self.folder / f"{index}.{name}.npy" for name in ("image", "label")]
        if not all(file.exists() for file in files):
            image, label = decode()
            rows = image.permute(1, 2, 0) if self.rgb and image.dtype == torch.uint8 else image
            # a full disk costs time, no run
            with suppress(OSError):
                for file, values in zip(files, (rows, label), strict=True):
                    with atomic_write(file) as part, part.open("wb") as stream:
                        np.save(stream, values.numpy())
            return image, label
        # "c": pages are shared until they are written to, which nobody does
        stored, label = (torch.from_numpy(np.load(file, mmap_mode="c")) for file in files)
        return stored.permute(2, 0, 1) if self.rgb and stored.dtype == torch.uint8 else stored, label


def fits(pairs: Sequence[Pair], data: DataRecipe, gibibytes: float) -> bool:
    """Whether all pairs, once decoded, take no more than that and the folder for temporary files has room for them."""
    if not gibibytes or data.jpeg_draft:
        return False
    needed = 0
    for pair, known in zip(pairs, scan(pairs, data, thorough=False), strict=True):
        if not isinstance(known.image, ImageStats):
            return False
        # samples of more than 8 bits become floats
        depth = data.channels * (4 if is_deep(pair.image, data) else 1)
        needed += known.image.height * known.image.width * (depth + 1)
    return needed <= gibibytes * 2**30 and SPARE * needed <= shutil.disk_usage(tempfile.gettempdir()).free


def _remove_orphans() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdecimal() and not Path("/proc", process).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, process: int) -> None:
    """Remove the folder, but not from a process that was forked to load images."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
