"""Pairing pictures with labels in a folder.

The patterns of the recipe (`images/{split}`, `labels/{split}`) name the folders. Three layouts are understood:
a folder per split (sub-folders below it are searched); one folder for all with `train.txt` and `val.txt` (a stem a
line) at the root; and one folder for all without such files, of which a tenth, chosen by the names, is for validation.
Where a folder per split and a split file are both there, the file selects from the folder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from semask.data.image import SUFFIXES
from semask.data.source import Source
from semask.recipes.recipe import DataRecipe

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1
"""Of a folder without splits."""
SHOWN = 5
"""File names in a message."""


class Pair(NamedTuple):
    """A picture and its label; `stem` is the path below the image folder without suffix."""

    stem: str
    image: Source
    label: Source


def find_pairs(data: DataRecipe, split: str) -> list[Pair]:
    """Return the pairs of a split, such as `data.train_split`, in order of their stems.

    Raises:
        ValueError: the root or a folder is missing, the split is empty, an image has no label, two images share a
            stem, or a split file names what is not there.
    """
    root = find_root(data)
    image_folder, placed = _folder(root, data.images, data, split)
    label_folder, _ = _folder(root, data.labels, data, split)
    images = _images(image_folder, data.image_suffix)
    labels = _labels(label_folder, data.label_suffix)
    stems = _stems(images, root, data, split=split, placed=placed)
    if not stems:
        raise ValueError(f"the {split!r} split is empty: no image in {image_folder}{_expected(data)}")
    _refuse_missing_labels([s for s in stems if s not in labels], images, label_folder, data.label_suffix)
    if unused := sorted(labels.keys() - images.keys()):
        logger.warning("%d labels in %s have no image and are not used: %s", len(unused), label_folder, _some(unused))
    return [Pair(stem, images[stem], labels[stem]) for stem in stems]


def find_root(data: DataRecipe) -> Path:
    """Return the folder of the dataset; a ValueError draws what is expected there when it is missing."""
    if data.root is None:
        raise ValueError(f"this recipe reads files: give their folder with --data.root{_expected(data)}")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root {data.root!r} is no folder{_expected(data)}")
    return root


def _folder(root: Path, pattern: str, data: DataRecipe, split: str) -> tuple[Path, bool]:
    """Return the folder of a split, and whether it holds that split alone."""
    by_split = pattern if "{split}" in pattern else f"{pattern}/{{split}}"
    shared = root / pattern.replace("{split}", "").rstrip("/")
    present = [name for name in (data.train_split, data.val_split) if (root / by_split.format(split=name)).is_dir()]
    if split in present:
        return root / by_split.format(split=split), True
    if present or not shared.is_dir():
        missing = root / by_split.format(split=split) if present or "{split}" in pattern else shared
        raise ValueError(f"no folder {missing}{_expected(data)}")
    return shared, False


def _files(folder: Path) -> Iterable[Path]:
    """Return the files below a folder in order of their names; hidden ones (".DS_Store", "._a.jpg") are no data."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _images(folder: Path, suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        ending = suffix or path.suffix
        if not path.name.endswith(ending) or not (suffix or ending.lower() in SUFFIXES):
            continue
        stem = path.relative_to(folder).as_posix().removesuffix(ending)
        if stem in found:
            raise ValueError(f"two images share one stem: {found[stem]} and {path}; rename or remove one")
        found[stem] = path
    return found


def _labels(folder: Path, suffix: str) -> dict[str, Path]:
    files = (path for path in _files(folder) if path.name.endswith(suffix))
    return {path.relative_to(folder).as_posix().removesuffix(suffix): path for path in files}


def _stems(images: dict[str, Path], root: Path, data: DataRecipe, *, split: str, placed: bool) -> list[str]:
    listing = root / f"{split}.txt"
    if listing.is_file():
        return _listed(listing, images)
    if placed:
        return sorted(images)
    others = [root / f"{name}.txt" for name in (data.train_split, data.val_split)]
    if any(path.is_file() for path in others):
        raise ValueError(
            f"no {listing}, although the other split has its file; write the split's stems there, one a line"
        )
    validation = _held_out(images)
    _tell_held_out(root, len(validation), len(images), " and ".join(path.name for path in others))
    return sorted(validation if split == data.val_split else images.keys() - validation)


@cache
def _tell_held_out(root: Path, validation: int, pictures: int, files: str) -> None:
    """Warn once per root: a training asks for its pairs several times."""
    logger.warning(
        "no folder or file tells the splits of %s: %d of %d pictures, chosen by their names, are for validation; "
        "write %s to choose them yourself",
        *(root, validation, pictures, files),
    )


def _held_out(stems: Iterable[str]) -> set[str]:
    """Return a tenth of the stems, at least one, the same on every machine and in every order."""
    ranked = sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())
    return set(ranked[: max(1, round(len(ranked) * VALIDATION_SHARE))])


def _listed(listing: Path, images: dict[str, Path]) -> list[str]:
    """Return the stems of a split file; a line may be a stem, a path below the image folder, or end in the suffix."""
    lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    by_name: dict[str, list[str]] = {}
    for stem, path in images.items():
        for name in {stem, path.name, Path(stem).name, stem + path.suffix}:
            by_name.setdefault(name, []).append(stem)
    unknown = [line for line in lines if line not in by_name]
    if unknown:
        raise ValueError(
            f"{listing} lists {len(unknown)} images that are not there: {_some(unknown)}; correct the list"
        )
    stems = [line if line in images else by_name[line][0] for line in lines]
    several = [line for line in lines if line not in images and len(by_name[line]) > 1]
    if several:
        raise ValueError(f"{listing}: {_some(several)} could be several images; write the path below the image folder")
    if not stems:
        raise ValueError(f"{listing} is empty: list the split's images, one stem a line")
    return sorted(set(stems))


def _refuse_missing_labels(missing: list[str], images: dict[str, Path], folder: Path, suffix: str) -> None:
    if not missing:
        return
    lossy = [folder / f"{stem}{ending}" for stem in missing for ending in (".jpg", ".jpeg", ".JPG", ".JPEG")]
    lossy = [path for path in lossy if path.is_file()]
    if lossy:
        raise ValueError(
            f"{len(lossy)} labels are JPEG: {_some([path.name for path in lossy])} in {folder}; "
            "JPEG compression changes ids near edges: make them again as 8-bit greyscale PNG"
        )
    names = _some([images[stem].name for stem in missing])
    raise ValueError(
        f"{len(missing)} images without a label: {names}; expected e.g. {folder / (missing[0] + suffix)}; "
        "add the labels or remove the images"
    )


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _expected(data: DataRecipe) -> str:
    """Return the tree that the recipe's patterns describe."""
    image, label = f"*{data.image_suffix or '.jpg'}", f"*{data.label_suffix}"
    lines = ["", f"expected below {data.root or 'the folder'}:"]
    for pattern, file in ((data.images, image), (data.labels, label)):
        if "{split}" in pattern:
            lines += [f"  {pattern.format(split=s)}/{file}" for s in (data.train_split, data.val_split)]
        else:
            lines.append(f"  {pattern}/{file}")
    lines.append(f"  {data.train_split}.txt, {data.val_split}.txt (optional: the stems of each split)")
    return "\n".join(lines)
