"""Small downloads of published datasets, and what is made of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.data.published.catalogue import DATASETS
from semask.data.published.official import Official
from semask.data.readers.image import read_image, read_label
from semask.recipes.recipe import DataRecipe

SIZE = (6, 7)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def photo(number: int = 0, kind: str = "JPEG") -> bytes:
    return encoded(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8), kind)


def values(of: Iterable[int], number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).choice(np.array(list(of)), SIZE)


def mat(**variables: object) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=True)
    return file.getvalue()


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def counted(name: str, **counts: int) -> Official:
    """The dataset as if it were as small as the test's."""
    official = DATASETS[name]
    splits = dict(zip(official.counts, counts.values(), strict=True))
    return replace(official, counts=splits)


def layout(official: Official, root: Path) -> DataRecipe:
    return replace(official.data, root=str(root))


def classes_in(official: Official, root: Path, split: str, number: int = 0) -> list[list[int]]:
    """The classes of a label of the finished tree, as training reads them."""
    pair = find_pairs(layout(official, root), split)[number]
    assert read_image(pair.image).shape[1:] == SIZE
    return Classes.load(str(official.data.classes)).encode(read_label(pair.label).numpy()).tolist()
