"""Small data sets on disk for the doctor to look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from semask.data.checks.doctor import Diagnosis, diagnose
from semask.data.checks.issue import Issue
from semask.recipes.recipe import DataRecipe

SIZE = (40, 56)
NAMES = ("ground", "wall", "sky", "rare")


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth image and a label of three bands of classes."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    cuts = np.sort(random.integers(4, size[0] - 4, 2))
    rows = np.arange(size[0])[:, None].repeat(size[1], 1)
    return image, np.digitize(rows, cuts).astype(np.uint8)


def put_good(folder: Path) -> Path:
    """Six good training pairs, one with the rare class, and two for validation."""
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            put(folder, f"{split}/{split}{index}", *scene(index + 100 * (split == "val")))
    image, label = scene(5)
    label[:3, :3] = 3
    put(folder, "train/train5", image, label)
    (folder / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    return folder


def put(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray | None, suffix: str = ".jpg"
) -> tuple[Path, Path]:
    paths = folder / "images" / f"{name}{suffix}", folder / "labels" / f"{name}.png"
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(paths[0])
    if label is not None:
        Image.fromarray(label).save(paths[1])
    return paths


def look(root: Path, **options: object) -> Diagnosis:
    return diagnose(DataRecipe(root=str(root)), **options)


def messages_of(issues: tuple[Issue, ...], kind: str) -> list[str]:
    return [str(issue) for issue in issues if issue.kind == kind]


def out_of_range(root: Path) -> None:
    label = scene(0)[1]
    label[:2, :3] = 77
    Image.fromarray(label).save(root / "labels/train/train0.png")


def leaked(root: Path) -> None:
    shutil.copy(root / "images/train/train1.jpg", root / "images/val/again.jpg")
    shutil.copy(root / "labels/train/train1.png", root / "labels/val/again.png")
