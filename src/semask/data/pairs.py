"""Pairs of images and labels, in any storage.

In a folder, or a zip file, the patterns of the recipe (`images/{split}`, `labels/{split}`) name the folders. Three
layouts are understood: a folder per split (sub-folders below it are searched); one folder for all with `train.txt` and
`val.txt` (a stem a line) at the root; and one folder for all without such files, of which `hold_out` chooses images for
validation. Where a folder per split and a split file both exist, the file selects from the folder.

Suffixes match in any case. Names are compared in Unicode's composed form (NFC): macOS writes decomposed ones (NFD).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from semask.data.classes import Classes
from semask.data.holdout import hold_out
from semask.data.label_values import COLOUR
from semask.data.layout import Misplaced, expected_layout, missing_labels, nearby, why_empty
from semask.data.masks import (
    BACKGROUND,
    CLASS,
    find_masks,
    has_mask_per_class,
    mask_pattern,
    names_of_masks,
)
from semask.data.readers.hugging_face import dataset_rows
from semask.data.readers.image import SUFFIXES
from semask.data.readers.shards import shard_samples
from semask.data.readers.source import Source
from semask.data.readers.tree import Tree, nfc, unicode_forms, warn_once
from semask.recipes.recipe import DataRecipe
from semask.text import fold

TABLE = "classes.json"

Files = dict[str, Source]
"""Files by their stem, or by their path below a folder."""


class Pair(NamedTuple):
    """An image and its label; `stem` is the path below the image folder without suffix, or the key of a sample."""

    stem: str
    image: Source
    label: Source


class Unpaired(ValueError):
    """Some images have no label; `pairs` holds the others."""

    def __init__(self, message: str, pairs: dict[str, tuple[Source, Source]]) -> None:
        super().__init__(message)
        self.pairs = _sorted_pairs(pairs)


def find_pairs(data: DataRecipe, split: str) -> list[Pair]:
    """Return the pairs of a split, such as `data.train_split`, in order of their stems.

    Raises:
        ValueError: the root or a folder is missing, the split is empty, an image has no label (`Unpaired`), two images
            or two labels share a stem, or a split file names a missing image.
    """
    find = {"shards": shard_samples, "hugging_face": dataset_rows}.get(data.kind, _pairs_in_folders)
    return _sorted_pairs(find(data, find_root(data), split))


def find_splits(data: DataRecipe) -> tuple[str, ...]:
    """Return the recipe's two splits, then other folders of images and labels, then other lists of stems.

    A list that holds the whole training split (trainval.txt), or part of it by its name (train_small.txt), is no other.

    Raises:
        ValueError: the root is missing.
    """
    own = (data.train_split, data.val_split)
    if data.kind != "files":
        return own
    tree = Tree(find_root(data))

    def stems(split: str) -> set[str]:
        try:
            folder, own_folder = _find_folder(tree, data.images, data, split)
            images = _by_stem(tree.files(folder), data.image_suffix or None)
            return {*_stems_of_split(images, tree, data, split=split, own_folder=own_folder)}
        except ValueError:
            return set()

    # folders beside those of the two splits
    both = [each if "{split}" in each else f"{each}/{{split}}" for each in (data.images, mask_pattern(data, "")[0])]
    below = tree.entries(both[0].partition("{split}")[0].rstrip("/"))
    folders = [name for name in below if all(tree.has_folder(each.replace("{split}", name)) for each in both)]
    folders = folders if {*folders} & {*own} else []
    # lists beside that of the training split
    place, training = data.train_split.rpartition("/")[0], stems(data.train_split)
    names = (f"{place}/{name}".strip("/").removesuffix(".txt") for name in tree.entries(place) if name.endswith(".txt"))
    found = {name: stems(name) for name in names if not name.startswith(data.train_split)}
    lists = [name for name, listed in found.items() if listed and not (training and listed >= training)]
    return tuple(dict.fromkeys((*own, *folders, *lists)))


def _sorted_pairs(found: dict[str, tuple[Source, Source]]) -> list[Pair]:
    return [Pair(stem, image, label) for stem, (image, label) in sorted(found.items())]


def stored_classes(data: DataRecipe) -> Classes | None:
    """Return the class table that the recipe names, or ROOT/classes.json; None without one.

    Raises:
        ValueError: the root is missing, or the table is invalid.
    """
    if data.classes is not None:
        return Classes.load(data.classes)
    root = find_root(data)
    text = Tree(root).read_text(TABLE)
    return None if text is None else Classes.from_text(text, source=str(root / TABLE))


def mask_classes(data: DataRecipe) -> tuple[str, ...]:
    """Return the names of the classes that masks are looked for: those of the table, or without one all that exist.

    Raises:
        ValueError: the root or a folder is missing, or the table is invalid or maps values.
    """
    classes = stored_classes(data)
    if classes is None:
        return existing_masks(data)
    if any(target != value for value, target in classes.label_map.items() if value < COLOUR):
        raise ValueError(
            f'labels are one mask per class by "{CLASS}" in --data.labels or --data.label-suffix, and the class table '
            'has "labels" for the values of a single file; leave "labels" out of the table'
        )
    return classes.names


def existing_masks(data: DataRecipe) -> tuple[str, ...]:
    """Return "background", for pixels of no mask, and the classes that there are masks of, in both splits.

    Raises:
        ValueError: the root or a folder is missing.
    """
    found: set[str] = set()
    tree = Tree(find_root(data))
    for split in dict.fromkeys((data.train_split, data.val_split)):
        pattern, template = mask_pattern(data, split)
        files = tree.files(_find_folder(tree, pattern, data, split)[0])
        images = tree.files(_find_folder(tree, data.images, data, split)[0])
        found |= names_of_masks(map(nfc, files), _by_stem(images, data.image_suffix or None), template)
    return (BACKGROUND, *sorted(found - {BACKGROUND}))


def find_root(data: DataRecipe) -> Path:
    """Return the folder or zip file of the dataset.

    Raises:
        ValueError: it is missing; the message shows the expected layout.
    """
    if data.root is None:
        raise ValueError(
            f"this recipe reads files: give their folder or zip file with --data.root{expected_layout(data)}"
        )
    root = Path(data.root).expanduser()
    root = next((path for form in unicode_forms(str(root)) if (path := Path(form)).exists()), root)
    if not Tree(root).has_folder(""):
        is_image = root.is_file() and root.suffix.lower() in SUFFIXES
        what = "is a single image: give the folder of images and labels" if is_image else "is no folder or zip file"
        raise ValueError(f"data.root {data.root!r} {what}{expected_layout(data)}")
    return root


def _pairs_in_folders(data: DataRecipe, root: Path, split: str) -> dict[str, tuple[Source, Source]]:
    tree = Tree(root)
    image_folder, own_folder = _find_folder(tree, data.images, data, split)
    pattern, template = mask_pattern(data, split)
    label_folder, _ = _find_folder(tree, pattern, data, split)
    files = tree.files(image_folder)
    images = _by_stem(files, data.image_suffix or None)
    stems = _stems_of_split(images, tree, data, split=split, own_folder=own_folder)
    if not stems:
        reason = why_empty(files, images, data)
        raise Misplaced(f"the {split!r} split is empty: {root / image_folder} {reason}", expected_layout(data))
    # labels of the same stems
    files = tree.files(label_folder)
    labels: Mapping[str, Source] = {}
    if has_mask_per_class(data):
        labels = find_masks({nfc(path): file for path, file in files.items()}, images, template, mask_classes(data))
    elif not data.label_suffix.lower().endswith(".json"):
        labels = _by_stem(files, data.label_suffix)
    paired = {stem: (images[stem], labels[stem]) for stem in stems if stem in labels}
    if missing := [stem for stem in stems if stem not in labels]:
        used = {*images.values(), *(label for _, label in paired.values())}
        unused_files = [path for path, file in files.items() if file not in used]
        names = {stem: images[stem].name for stem in missing}
        message = missing_labels(names, root / label_folder, unused_files, data, any_paired=bool(paired))
        raise Unpaired(message, paired)
    if unused := sorted(labels.keys() - images.keys()):
        warn_once(f"{len(unused)} labels in {root / label_folder} have no image and are not used: {fold(unused)}")
    return paired


def _by_stem(files: Files, suffix: str | None) -> Files:
    """Return files by their NFC path without the suffix, whose case is ignored; None is any suffix of images.

    Raises:
        ValueError: two files share a stem.
    """
    found: Files = {}
    for path, file in files.items():
        name = nfc(path)
        ending = nfc(PurePosixPath(name).suffix if suffix is None else suffix)
        stem, tail = name[: len(name) - len(ending)], name[len(name) - len(ending) :]
        if tail.lower() != ending.lower() or (suffix is None and ending.lower() not in SUFFIXES):
            continue
        if stem in found:
            raise ValueError(f"{found[stem]} and {file} share one stem, case and form of Unicode aside; rename one")
        found[stem] = file
    return found


def _find_folder(tree: Tree, pattern: str, data: DataRecipe, split: str) -> tuple[str, bool]:
    """Return the folder of a split below the root, and whether it holds that split alone."""
    by_split = pattern if "{split}" in pattern else f"{pattern}/{{split}}"
    shared = pattern.replace("{split}", "").rstrip("/")
    splits = (data.train_split, data.val_split, split)
    present = [name for name in splits if tree.has_folder(by_split.replace("{split}", name))]
    if split in present:
        return by_split.replace("{split}", split), True
    if not present and tree.has_folder(shared):
        return shared, False
    missing = by_split.replace("{split}", split) if present or "{split}" in pattern else shared
    raise Misplaced(f"no folder {tree.root / missing}", nearby(tree, pattern, data) + expected_layout(data))


def _stems_of_split(images: Files, tree: Tree, data: DataRecipe, *, split: str, own_folder: bool) -> list[str]:
    # a split file comes before folders
    listing = tree.read_text(f"{split}.txt")
    if listing is not None:
        return _listed_stems(listing, tree.root / f"{split}.txt", images)
    if own_folder:
        return sorted(images)
    splits = (data.train_split, data.val_split)
    files = [f"{name}.txt" for name in splits]
    if split not in splits or any(tree.read_text(file) is not None for file in files):
        raise ValueError(
            f"no {tree.root / split}.txt and no folder of that split alone; write its stems there, one a line"
        )
    chosen = hold_out(images)
    held = f"{len(chosen)} of {len(images)} images, chosen by their names, are for validation"
    write = f"write {' and '.join(files)} to choose them yourself"
    warn_once(f"no folder or file defines the splits of {tree.root}: {held}; {write}")
    return sorted(chosen if split == data.val_split else images.keys() - chosen)


def _listed_stems(text: str, listing: Path, images: Files) -> list[str]:
    """Return the stems of a split file; a line may be a stem, a path below the image folder, or end in the suffix."""
    # joined lists have a byte order mark at the beginning of each
    lines = [nfc(line) for each in text.splitlines() if (line := each.strip().lstrip("\ufeff").strip())]
    # all names of an image by which a line may mean it
    by_name: dict[str, list[str]] = {}
    for stem, image in images.items():
        file = nfc(image.name)
        for name in {*map(_fold, (stem, PurePosixPath(stem).name, file, stem + PurePosixPath(file).suffix))}:
            by_name.setdefault(name, []).append(stem)
    if unknown := [line for line in lines if _fold(line) not in by_name]:
        raise ValueError(f"{listing} lists {len(unknown)} images that do not exist: {fold(unknown)}; correct the list")
    if several := [line for line in lines if line not in images and len(by_name[_fold(line)]) > 1]:
        raise ValueError(f"{listing}: {fold(several)} could be several images; write the path below the image folder")
    if not lines:
        raise ValueError(f"{listing} is empty: list the split's images, one stem a line")
    return sorted({line if line in images else by_name[_fold(line)][0] for line in lines})


def _fold(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) + suffix.lower()
