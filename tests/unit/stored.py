"""A small data set, and ways to store it; what reads back must be the same."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from semask.data.dataset import training_set, validation_set
from semask.recipes.recipe import DataRecipe

CLASSES = '{"classes": ["a", "b", "c"]}'


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def random_image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6 + number, 9, 3), dtype=np.uint8)


def truth(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 3, (6 + number, 9), dtype=np.uint8)


SPLITS = {"train": (0, 1, 2), "val": (3, 4)}
FILES = {
    "classes.json": CLASSES.encode(),
    **{f"images/{s}/p{n}.png": encoded(random_image(n)) for s, ns in SPLITS.items() for n in ns},
    **{f"labels/{s}/p{n}.png": encoded(truth(n)) for s, ns in SPLITS.items() for n in ns},
}


def make_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def unpacked(root: Path) -> DataRecipe:
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return DataRecipe(root=str(root))


def assert_same_samples(data: DataRecipe, files: DataRecipe) -> None:
    """Training draws, with all their chance, and validation images are equal to the last bit."""
    small = {"crop": (8, 8), "scale_range": (0.5, 2.0)}
    ours, theirs = (training_set(replace(d, **small), seed=3) for d in (data, files))
    for draw in range(7):
        assert torch.equal(ours[draw].image, theirs[draw].image)
        assert torch.equal(ours[draw].label, theirs[draw].label)
    ours, theirs = validation_set(data), validation_set(files)
    assert len(ours) == len(theirs) == 2
    assert all(torch.equal(ours[i].image, theirs[i].image) for i in range(2))
    assert all(torch.equal(ours[i].label, theirs[i].label) for i in range(2))


def sample(number: int) -> dict[str, bytes]:
    return {"png": encoded(random_image(number)), "seg.png": encoded(truth(number))}
