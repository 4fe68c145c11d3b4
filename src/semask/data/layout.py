"""The layout that a recipe expects, and the flags that fit where folders or names of files differ."""

from __future__ import annotations

import os
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from semask.data.masks import CLASS, STEM, usual_masks
from semask.data.published.catalogue import DATASETS, LABEL_IDS, LABEL_IDS_FIX, TRAIN_IDS
from semask.data.readers.hugging_face import expected_dataset
from semask.data.readers.image import SUFFIXES
from semask.data.readers.shards import expected_shards
from semask.data.readers.source import Source
from semask.data.readers.tree import Tree, nfc
from semask.recipes.recipe import DataRecipe
from semask.text import fold

LOSSY = (".jpg", ".jpeg")
CANDIDATES = 20
"""Labels compared with an image without one, to find the suffix that fits."""
USUAL = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "annos", "gt", "groundtruth", "ground_truth"),
    *("segmentation", "segmentations", "seg", "targets", "target", "SegmentationClass"),
)
"""Usual names of folders of labels, in lower and upper case."""


class Misplaced(ValueError):
    """A folder or its images are missing; `advice`, the end of the message, may be the same for several splits."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message + advice)
        self.advice = advice


def nearby(tree: Tree, pattern: str, data: DataRecipe) -> str:
    """Return the flag that fits where the folder of images or labels is missing, or ""."""
    # roots are often one step off: look above and below
    by_split = pattern if "{split}" in pattern else f"{pattern}/{{split}}"
    wanted = {by_split.replace("{split}", name).rstrip("/") for name in ("", data.train_split, data.val_split)}
    if tree.root.is_dir():
        above = tree.root.parent if tree.root.name not in ("", "..") else tree.root.resolve().parent
        below = (path for path in sorted(tree.root.iterdir()) if path.is_dir() or zipfile.is_zipfile(path))
        for place in (above, *below):
            if any(map(Tree(place).has_folder, wanted)):
                return f"; did you mean --data.root {shlex.quote(str(place))}?"
    # the folder by another name: with the files of the same images, or named as folders of labels are
    of_images = pattern == data.images
    taken = (data.labels if of_images else data.images).partition("/")[0]
    known = stems_in(tree, taken, data)
    found = {name: stems_in(tree, name, data) for name in tree.entries("") if name != taken and tree.has_folder(name)}
    ranks = {
        name: (len(stems & known), not of_images and name.lower() in map(str.lower, USUAL))
        for name, stems in found.items()
        if stems
    }
    best = [name for name, rank in ranks.items() if rank == max(ranks.values())]
    if len(best) != 1:
        return ""
    rest = "" if of_images else data.labels.partition("/")[2]
    value = f"{best[0]}/{rest}" if CLASS in rest else best[0]
    return f"; did you mean --data.{'images' if of_images else 'labels'} {shlex.quote(value)}?"


def stems_in(tree: Tree, folder: str, data: DataRecipe) -> set[str]:
    """Return the stems of the images in a folder and in its folders of splits; deeper ones may take forever."""
    places = (folder, f"{folder}/{data.train_split}", f"{folder}/{data.val_split}")
    paths = (PurePosixPath(nfc(name)) for place in places for name in tree.entries(place))
    return {path.stem for path in paths if path.suffix.lower() in SUFFIXES}


def why_empty(files: Mapping[str, Source], images: Mapping[str, Source], data: DataRecipe) -> str:
    """Return why a folder gives no image to a split, with a file that is there and the flag that fits."""
    if images:
        lists = f"{data.train_split}.txt and {data.val_split}.txt"
        return f"holds {len(images)} image, and the other split takes it; add images, or choose by {lists}"
    if not files:
        return "holds no image"
    # of many files, an image of another suffix
    path = next((path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES), next(iter(files)))
    suffix, wanted = PurePosixPath(path).suffix, data.image_suffix or ", ".join(SUFFIXES)
    fix = f"use --data.image-suffix {suffix}" if suffix.lower() in SUFFIXES else "give images of these kinds"
    return f"holds no image that ends in {wanted}, but e.g. {path}; {fix}"


def missing_labels(
    missing: dict[str, str], folder: Path, files: list[str], data: DataRecipe, *, any_paired: bool
) -> str:
    """Return the message on images (stem: file name) without a label, with what the unused files allow to do."""
    suffix = data.label_suffix
    # annotations under the images' own names
    own = {nfc(PurePosixPath(name).stem) for name in missing.values()} | {PurePosixPath(stem).name for stem in missing}
    same = [path for path in files if nfc(PurePosixPath(path).stem) in own]
    lossy, polygons = ([path for path in same if path.lower().endswith(ends)] for ends in (LOSSY, ".json"))
    flags, example = _fitting_suffixes(missing, files)
    if masks := usual_masks(files, missing):
        template, example = masks
        lossy, ending = [], PurePosixPath(example).suffix
        flags = f"--data.label-suffix '{template.removeprefix(STEM)}'"
        if not template.startswith(STEM):
            flags = f"--data.labels '{data.labels}/{CLASS}' --data.label-suffix {ending}"
    if lossy or (example.lower().endswith(LOSSY) and not masks):
        return (
            f"{len(lossy) or len(missing)} labels are JPEG: {fold(lossy or [example])} in {folder}; "
            "JPEG compression changes ids near edges: make them again as 8-bit greyscale PNG, or, if they are masks of "
            "a few levels of grey, use --data.label-suffix .jpg and ranges of values in the class table"
        )
    first = next(iter(missing))
    fix = "add the labels or remove the images"
    # Cityscapes as it was downloaded, labels of another suffix, or no label of any form
    if suffix.endswith(TRAIN_IDS) and first + suffix.replace(TRAIN_IDS, LABEL_IDS) in files:
        fix = LABEL_IDS_FIX
    elif flags:
        # one flag is for all labels
        fix = f"{folder / example} is there: " + (f"save it as {suffix}, like others" if any_paired else f"use {flags}")
    elif polygons:
        fix = (
            f"{len(polygons)} files such as {folder / polygons[0]} are polygons, as LabelMe writes them: export them "
            "to PNG files of class numbers, with LabelMe's own labelme2voc.py, and give the folder of those"
        )
    elif files and not any_paired:
        fix = f"the folder holds e.g. {files[0]}; give images and labels the same names but for suffixes"
    names = fold([*missing.values()])
    return f"{len(missing)} images without a label: {names}; expected e.g. {folder / (first + suffix)}; {fix}"


def _fitting_suffixes(missing: dict[str, str], files: list[str]) -> tuple[str, str]:
    """Return the flags by which most images (stem: file name) without a label get one, and such a label; or ""."""
    # the labels whose names have most in common with the first image's
    there = {nfc(path): path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES}
    first, name = next(iter(missing.items()))
    shared = {path: len(os.path.commonprefix([first, path])) for path in there}  # noqa: RUF071 (names, not folders)
    most, best, flags, example = max(shared.values(), default=0), len(missing) // 2, "", ""
    for path in sorted((path for path, length in shared.items() if length == most > 0), key=len)[:CANDIDATES]:
        # cut between words: p1_image.png and p1_ids.png share "p1_", not "p1_i"
        cut = most
        while 0 < cut < min(len(first), len(path)) and first[cut - 1].isalnum() and path[cut].isalnum():
            cut -= 1
        ending, suffix = first[cut:], path[cut:]
        count = sum(stem.endswith(ending) and stem.removesuffix(ending) + suffix in there for stem in missing)
        # digits at the end number images: 0001 is no suffix
        if cut and count > best and (count > 1 or not ending[-1:].isdigit()):
            image_suffix = f"--data.image-suffix {ending}{PurePosixPath(name).suffix} " if ending else ""
            best, flags, example = count, f"{image_suffix}--data.label-suffix {suffix}", there[path]
    return flags, example


def expected_layout(data: DataRecipe) -> str:
    """Return the expected content of the root: the tree of the recipe's patterns, or another storage."""
    root = data.root or "the folder"
    if data.kind != "files":
        return expected_shards(root) if data.kind == "shards" else expected_dataset(root)
    lines = ["", f"expected below {root}:"]
    for pattern, file in ((data.images, f"*{data.image_suffix or '.jpg'}"), (data.labels, f"*{data.label_suffix}")):
        folders = [pattern.replace("{split}", split) for split in (data.train_split, data.val_split)]
        lines += [f"  {folder}/{file}" for folder in dict.fromkeys(folders)]
    lines.append(f"  {data.train_split}.txt, {data.val_split}.txt (optional: the stems of each split)")
    for name, official in DATASETS.items():
        if official.data.classes == data.classes:
            downloads = " and ".join(official.downloads)
            lines.append(f"`semask prepare {name} --from DOWNLOAD … --root DIR` makes it of {downloads}")
    if str(data.root).endswith(".tar"):
        lines.append("tar shards are read by --data.kind shards; their folder is the root")
    return "\n".join(lines)
