"""Pairing pictures with labels, in whatever they are stored.

In a folder, or a zip file, the patterns of the recipe (`images/{split}`, `labels/{split}`) name the folders. Three
layouts are understood: a folder per split (sub-folders below it are searched); one folder for all with `train.txt` and
`val.txt` (a stem a line) at the root; and one folder for all without such files, of which a tenth, chosen by the names,
is for validation. Where a folder per split and a split file are both there, the file selects from the folder.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from semask.data.published.catalogue import DATASETS
from semask.data.published.cityscapes import HINT, LABEL_IDS, TRAIN_IDS
from semask.data.readers.hugging_face import dataset_rows, expected_dataset
from semask.data.readers.image import SUFFIXES
from semask.data.readers.shards import expected_shards, shard_samples
from semask.data.readers.source import Source
from semask.data.readers.tree import Tree
from semask.recipes.recipe import DataRecipe

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1
"""Of a folder without splits."""
SHOWN = 5
"""File names in a message."""


class Pair(NamedTuple):
    """A picture and its label; `stem` is the path below the image folder without suffix, or the key of a sample."""

    stem: str
    image: Source
    label: Source


class Unpaired(ValueError):
    """Some images have no label; `pairs` are those that have one."""

    def __init__(self, message: str, pairs: dict[str, tuple[Source, Source]]) -> None:
        super().__init__(message)
        self.pairs = _pairs(pairs)


def find_pairs(data: DataRecipe, split: str) -> list[Pair]:
    """Return the pairs of a split, such as `data.train_split`, in order of their stems.

    Raises:
        ValueError: the root or a folder is missing, the split is empty, an image has no label (`Unpaired`), two images
            share a stem, or a split file names what is not there.
    """
    find = {"shards": shard_samples, "hugging_face": dataset_rows}.get(data.kind, _in_folders)
    return _pairs(find(data, find_root(data), split))


def _pairs(found: dict[str, tuple[Source, Source]]) -> list[Pair]:
    return [Pair(stem, image, label) for stem, (image, label) in sorted(found.items())]


def find_root(data: DataRecipe) -> Path:
    """Return the folder or zip file of the dataset; a ValueError draws what is expected there when it is missing."""
    if data.root is None:
        raise ValueError(f"this recipe reads files: give their folder or zip file with --data.root{_expected(data)}")
    root = Path(data.root).expanduser()
    if not Tree(root).has_folder(""):
        raise ValueError(f"data.root {data.root!r} is no folder or zip file{_expected(data)}")
    return root


def _in_folders(data: DataRecipe, root: Path, split: str) -> dict[str, tuple[Source, Source]]:
    tree = Tree(root)
    image_folder, placed = _folder(tree, data.images, data, split)
    label_folder, _ = _folder(tree, data.labels, data, split)
    images = _images(tree.files(image_folder), data.image_suffix)
    stems = _stems(images, tree, data, split=split, placed=placed)
    if not stems:
        raise ValueError(f"the {split!r} split is empty: no image in {root / image_folder}{_expected(data)}")
    files = tree.files(label_folder)
    labels = {
        path.removesuffix(data.label_suffix): file for path, file in files.items() if path.endswith(data.label_suffix)
    }
    if unused := sorted(labels.keys() - images.keys()):
        folder = root / label_folder
        logger.warning("%d labels in %s have no image and are not used: %s", len(unused), folder, _some(unused))
    paired = {stem: (images[stem], labels[stem]) for stem in stems if stem in labels}
    if missing := [stem for stem in stems if stem not in labels]:
        raise Unpaired(_without_label(missing, images, root / label_folder, files, data.label_suffix), paired)
    return paired


def _folder(tree: Tree, pattern: str, data: DataRecipe, split: str) -> tuple[str, bool]:
    """Return the folder of a split below the root, and whether it holds that split alone."""
    by_split = pattern if "{split}" in pattern else f"{pattern}/{{split}}"
    shared = pattern.replace("{split}", "").rstrip("/")
    splits = (data.train_split, data.val_split)
    present = [name for name in splits if tree.has_folder(by_split.replace("{split}", name))]
    if split in present:
        return by_split.replace("{split}", split), True
    if present or not tree.has_folder(shared):
        missing = by_split.replace("{split}", split) if present or "{split}" in pattern else shared
        raise ValueError(f"no folder {tree.root / missing}{_nearby(tree.root, missing)}{_expected(data)}")
    return shared, False


def _nearby(root: Path, missing: str) -> str:
    """Name the folder above or below the root that has what is missing: roots are often one step off."""
    if not root.is_dir():
        return ""
    below = (path for path in sorted(root.iterdir()) if path.is_dir() or zipfile.is_zipfile(path))
    right = next((path for path in (root.resolve().parent, *below) if Tree(path).has_folder(missing)), None)
    return "" if right is None else f"; did you mean --data.root {right}?"


def _images(files: dict[str, Source], suffix: str) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for path, file in files.items():
        ending = suffix or PurePosixPath(path).suffix
        if not file.name.endswith(ending) or not (suffix or ending.lower() in SUFFIXES):
            continue
        stem = path.removesuffix(ending)
        if stem in found:
            raise ValueError(f"two images share one stem: {found[stem]} and {file}; rename or remove one")
        found[stem] = file
    return found


def _stems(images: dict[str, Source], tree: Tree, data: DataRecipe, *, split: str, placed: bool) -> list[str]:
    listing = tree.read_text(f"{split}.txt")
    if listing is not None:
        return _listed(listing, tree.root / f"{split}.txt", images)
    if placed:
        return sorted(images)
    files = [tree.root / f"{name}.txt" for name in (data.train_split, data.val_split)]
    if any(tree.read_text(f"{name}.txt") is not None for name in (data.train_split, data.val_split)):
        raise ValueError(
            f"no {tree.root / split}.txt, although the other split has its file; write the split's stems there, one a "
            "line"
        )
    validation = _held_out(images)
    _tell_held_out(tree.root, len(validation), len(images), " and ".join(path.name for path in files))
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
    ranked = sorted(stems, key=lambda stem: hashlib.sha256(stem.encode("utf-8", "surrogatepass")).digest())
    return set(ranked[: max(1, round(len(ranked) * VALIDATION_SHARE))])


def _listed(text: str, listing: Path, images: dict[str, Source]) -> list[str]:
    """Return the stems of a split file; a line may be a stem, a path below the image folder, or end in the suffix."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    by_name: dict[str, list[str]] = {}
    for stem, image in images.items():
        for name in {stem, image.name, PurePosixPath(stem).name, stem + PurePosixPath(image.name).suffix}:
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


def _without_label(
    missing: list[str], images: dict[str, Source], folder: Path, files: dict[str, Source], suffix: str
) -> str:
    lossy = [f"{stem}{ending}" for stem in missing for ending in (".jpg", ".jpeg", ".JPG", ".JPEG")]
    lossy = [PurePosixPath(path).name for path in lossy if path in files]
    if lossy:
        return (
            f"{len(lossy)} labels are JPEG: {_some(lossy)} in {folder}; "
            "JPEG compression changes ids near edges: make them again as 8-bit greyscale PNG"
        )
    names = _some([images[stem].name for stem in missing])
    official = missing[0] + suffix.replace(TRAIN_IDS, LABEL_IDS)
    mend = HINT if suffix.endswith(TRAIN_IDS) and official in files else "add the labels or remove the images"
    return f"{len(missing)} images without a label: {names}; expected e.g. {folder / (missing[0] + suffix)}; {mend}"


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _expected(data: DataRecipe) -> str:
    """Return what the root should hold: the tree that the recipe's patterns describe, or another storage."""
    root = data.root or "the folder"
    if data.kind != "files":
        return expected_shards(root) if data.kind == "shards" else expected_dataset(root)
    image, label = f"*{data.image_suffix or '.jpg'}", f"*{data.label_suffix}"
    lines = ["", f"expected below {root}:"]
    for pattern, file in ((data.images, image), (data.labels, label)):
        if "{split}" in pattern:
            lines += [f"  {pattern.format(split=s)}/{file}" for s in (data.train_split, data.val_split)]
        else:
            lines.append(f"  {pattern}/{file}")
    lines.append(f"  {data.train_split}.txt, {data.val_split}.txt (optional: the stems of each split)")
    for name, official in DATASETS.items():
        if official.data.classes == data.classes:
            lines.append(
                f"`semask prepare {name} --from DOWNLOAD … --root DIR` makes it of {' and '.join(official.downloads)}"
            )
    if str(data.root).endswith(".tar"):
        lines.append("tar shards are read by --data.kind shards; their folder is the root")
    return "\n".join(lines)
