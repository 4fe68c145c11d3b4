"""The page of a diagnosis: what is wrong, the worst files, classes, sizes, duplicates."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semask.data.checks.doctor import Diagnosis, Duplicate, Split
from semask.data.checks.issue import KINDS, Issue
from semask.data.classes import Classes
from semask.data.pairs import Pair
from semask.data.readers.image import read_label
from semask.data.readers.raster import as_rgb, read_raster
from semask.data.readers.source import Source
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe
from semask.visualization.pages.page import write_page
from semask.visualization.pages.picture import painted, photograph
from semask.visualization.pages.plot import BOTTOM, LEFT, RIGHT, TOP, Dot, Plot, axis

TITLES = {
    "split": "Files that are missing",
    "unreadable": "Files that cannot be read",
    "size": "Labels of another size than their picture",
    "orientation": "Pictures turned by their EXIF tag",
    "values": "Label values that are no class",
    "binary": "Masks of 0 and 255",
    "zero": "What value 0 means",
    "ignored": "Pixels without label",
    "classes": "Classes hardly seen, or not as many as expected",
    "leak": "Pictures in two splits",
    "duplicate": "Pictures that are there twice",
    "bands": "Channels and their range",
    "flat": "Pictures of one brightness",
    "extent": "Very small or very large pictures",
}
LISTED, SHOTS, SIDE = 50, 12, 300
"""Problems of a kind in the page, pictures in a section, and their longest side [px]."""
FLOOR = 1e-6
"""Share of pixels at which bars begin."""
COMMON, MAX_DOTS = 8, 2000
"""Sizes in the table, and in the plot of a split."""


class Group(NamedTuple):
    """Problems of one kind: how many, and those that are listed."""

    title: str
    total: int
    problems: Sequence[Issue]


class Shot(NamedTuple):
    """Two pictures side by side, as data URIs, with what there is to say."""

    pictures: tuple[str, ...]
    name: str
    messages: tuple[str, ...]


class ClassRow(NamedTuple):
    """One class: its share of the pixels, as a bar's length and in percent too, and its weights."""

    name: str
    colour: tuple[int, int, int]
    share: float
    length: float
    percent: str
    images: int
    weights: tuple[float, ...]


def write_doctor_page(path: Path, diagnosis: Diagnosis, *, name: str) -> None:
    """Write the page; at most a dozen of the worst files and of the duplicates are read again, for their pictures."""
    training = diagnosis.training
    total = sum(int(split.counts.pixels.sum()) + split.counts.ignored for split in diagnosis.splits)
    leaks = sum(duplicate.leak for duplicate in diagnosis.duplicates)
    never = int((np.sum([split.counts.pixels for split in diagnosis.splits], axis=0) == 0).sum())
    write_page(
        path,
        "doctor.html",
        name=name,
        root=diagnosis.data.root,
        training=training.name,
        errors=_groups(diagnosis.errors),
        warnings=_groups(diagnosis.warnings),
        splits=[_split_tile(split) for split in diagnosis.splits],
        classes=_class_rows(diagnosis),
        unseen=f"{never} never seen" if never else "all seen",
        ignored=sum(split.counts.ignored for split in diagnosis.splits) / total if total else None,
        duplicate_count=len(diagnosis.duplicates),
        leaks=f"{leaks} between splits",
        shots=_worst(diagnosis),
        duplicates=[_pair_shot(duplicate, diagnosis.data) for duplicate in diagnosis.duplicates[:SHOTS]],
        sizes=_sizes(diagnosis),
        common_sizes=_common(diagnosis),
        weight_names=list(diagnosis.class_weights),
        statistics=diagnosis.statistics_flags(),
        weight_flags=diagnosis.weight_flags().items(),
    )


def _groups(problems: Sequence[Issue]) -> list[Group]:
    found = {kind: [problem for problem in problems if problem.kind == kind] for kind in KINDS}
    return [Group(TITLES[kind], len(listed), listed[:LISTED]) for kind, listed in found.items() if listed]


def _split_tile(split: Split) -> dict[str, object]:
    sizes = sorted(_image_sizes(split), key=lambda size: size[0] * size[1])
    least, most = (f"{size[0]}×{size[1]}" for size in (sizes[0], sizes[-1])) if sizes else ("", "")
    told = least if least == most else f"{least} … {most}"
    return {"name": split.name, "pairs": len(split.pairs), "sizes": told}


def _class_rows(diagnosis: Diagnosis) -> list[ClassRow]:
    counts = diagnosis.training.counts
    total = max(1, int(counts.pixels.sum()))
    rows = []
    for index, (name, colour) in enumerate(zip(diagnosis.classes.names, diagnosis.classes.colours, strict=True)):
        share = int(counts.pixels[index]) / total
        length = max(0.0, 1 - math.log10(share) / math.log10(FLOOR)) if share else 0.0
        weights = tuple(weights[index] for weights in diagnosis.class_weights.values())
        rows.append(ClassRow(name, colour, share, length, f"{100 * share:.3g}", int(counts.images[index]), weights))
    return sorted(rows, key=lambda row: -row.share)


def _sizes(diagnosis: Diagnosis) -> Plot | None:
    """Return the scatter of heights over widths, or None with less than two sizes."""
    counted = {split.name: Counter(_image_sizes(split)) for split in diagnosis.splits}
    sizes = [size for sizes in counted.values() for size in sizes]
    if len(set(sizes)) < 2:
        return None
    across, x_ticks = axis([width for _, width in sizes], LEFT, RIGHT)
    down, y_ticks = axis([height for height, _ in sizes], BOTTOM, TOP)
    most = max(count for sizes in counted.values() for count in sizes.values())
    dots = []
    for name, sizes_of_split in counted.items():
        style = "main" if name == diagnosis.training.name else "second"
        for (height, width), count in sizes_of_split.most_common(MAX_DOTS):
            radius = round(3 + 11 * math.sqrt(count / most), 2)
            dots.append(Dot(across(width), down(height), radius, style, f"{height}×{width}: {count} in {name}"))
    # Large ones first, so that none is hidden.
    dots.sort(key=lambda dot: -dot.radius)
    return Plot("Sizes of pictures", "width [px]", "height [px]", x_ticks, y_ticks, tuple(dots))


def _common(diagnosis: Diagnosis) -> list[tuple[str, int]]:
    sizes = Counter(size for split in diagnosis.splits for size in _image_sizes(split))
    return [(f"{height} × {width}", count) for (height, width), count in sizes.most_common(COMMON)]


def _image_sizes(split: Split) -> list[tuple[int, int]]:
    return [(image.height, image.width) for _, image in split.images()]


def _worst(diagnosis: Diagnosis) -> list[Shot]:
    """Return the files with problems that can be shown, those that forbid training first."""
    messages: dict[Source, list[Issue]] = defaultdict(list)
    for problem in (*diagnosis.errors, *diagnosis.warnings):
        if problem.source is not None and problem.kind not in {"leak", "duplicate"}:
            messages[problem.source].append(problem)
    pairs = [pair for split in diagnosis.splits for pair in split.pairs]
    told = [(pair, messages.get(pair.image, []) + messages.get(pair.label, [])) for pair in pairs]
    told = [(pair, problems) for pair, problems in told if problems]
    told.sort(key=lambda each: (-sum(problem.severity == "error" for problem in each[1]), -len(each[1])))
    shots = []
    for pair, problems in told[:SHOTS]:
        pictures = _overlaid(pair, diagnosis)
        shots.append(Shot(pictures, pair.stem, tuple(problem.message for problem in problems)))
    return shots


def _overlaid(pair: Pair, diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return the picture, and the picture under its label or the label alone where their sizes differ."""
    image, label = _image(pair.image, diagnosis.data), _label(pair.label, diagnosis.classes)
    shown = () if image is None else (photograph(image, side=SIDE),)
    if label is None:
        return shown
    if image is None or image.shape[-2:] != label.shape:
        blank = torch.zeros(3, *label.shape)
        return (*shown, painted(blank, label, diagnosis.classes, alpha=1.0, side=SIDE))
    return (*shown, painted(image, label, diagnosis.classes, alpha=0.55, side=SIDE))


def _pair_shot(duplicate: Duplicate, data: DataRecipe) -> Shot:
    images = (_image(pair.image, data) for pair in (duplicate.first, duplicate.second))
    pictures = tuple(photograph(image, side=SIDE) for image in images if image is not None)
    alike = "the same file" if duplicate.distance is None else f"{duplicate.distance} of 64 bits differ"
    where = " and ".join(dict.fromkeys(duplicate.splits))
    label = "" if duplicate.same_label or duplicate.distance is not None else "labels differ"
    name = f"{duplicate.first.stem} · {duplicate.second.stem}"
    return Shot(pictures, name, tuple(told for told in (f"in {where}", alike, label) if told))


def _image(source: Source, data: DataRecipe) -> Tensor | None:
    try:
        return as_rgb(to_float(read_raster(source, data)))
    except (OSError, ValueError):
        return None


def _label(source: Source, classes: Classes) -> Tensor | None:
    try:
        return torch.from_numpy(classes.encode(read_label(source).numpy()))
    except (OSError, ValueError):
        return None
