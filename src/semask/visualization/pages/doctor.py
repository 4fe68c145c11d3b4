"""The page of a diagnosis: problems, the worst files, classes, examples of them, sizes, duplicates."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from semask.data.checks.class_counts import class_pixels
from semask.data.checks.doctor import Diagnosis
from semask.data.checks.file_stats import LabelStats
from semask.data.checks.issue import KINDS, Issue
from semask.data.checks.propose import write_command
from semask.data.dataset import read_values
from semask.data.pairs import Pair
from semask.data.readers.raster import as_rgb, read_raster
from semask.data.readers.source import Source
from semask.ops.palette import Colour
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe
from semask.visualization.pages.images import image_uri, overlay_uri
from semask.visualization.pages.page import Plot, write_page

TITLES = {
    "split": "Files that are missing",
    "unreadable": "Files that cannot be read",
    "size": "Labels of another size than their image",
    "orientation": "Images rotated by their EXIF tag",
    "values": "Label values outside the classes",
    "binary": "Masks of 0 and 255",
    "zero": "The meaning of value 0",
    "ignored": "Pixels without label",
    "classes": "Classes hardly seen, or not as many as expected",
    "leak": "Images in two splits",
    "duplicate": "Duplicate images",
    "bands": "Channels and their range",
    "flat": "Images of one brightness",
    "extent": "Very small or very large images",
}
LISTED, SHOTS, SIDE = 50, 12, 300
"""Problems of a kind in the page, images in a section, and their longest side [px]."""
FLOOR = 1e-6
"""Share of pixels at which bars begin."""
COMMON, MAX_DOTS = 8, 2000
"""Sizes in the table, and in the plot of a split."""

Sizes = dict[str, Counter[tuple[int, int]]]
"""Numbers of images by height and width, for every split."""


Shot = tuple[list[str], str, list[str]]
"""Images side by side, as data URIs, with their name and messages."""
Example = tuple[list[str], str, str, list[tuple[str, Colour]]]
"""The same with the class of which it shows most, its name, and the names and colours of all its classes."""


def write_doctor_page(path: Path, diagnosis: Diagnosis, *, name: str) -> None:
    """Write the page; at most a dozen examples, worst files and duplicates each are read again, for their images."""
    splits, duplicates, training = diagnosis.splits, diagnosis.duplicates, diagnosis.training
    # pixels without label, and classes without pixels
    ignored = sum(split.counts.ignored for split in splits)
    total = sum(int(split.counts.pixels.sum()) for split in splits) + ignored
    never = int((np.sum([split.counts.pixels for split in splits], axis=0) == 0).sum())
    # sizes of each split, smallest and largest by area
    sizes: Sizes = {split.name: Counter((image.height, image.width) for _, image in split.images()) for split in splits}
    tiles = []
    for split in splits:
        ends = [f"{h}×{w}" for h, w in sorted(sizes[split.name], key=math.prod)] or [""]
        tiles.append((split.name, len(split.pairs), " … ".join(dict.fromkeys((ends[0], ends[-1])))))
    common = sum(sizes.values(), Counter()).most_common(COMMON)
    # class table, frequent classes first
    labelled = max(1, int(training.counts.pixels.sum()))
    classes: list[dict[str, Any]] = []
    for index, (title, colour) in enumerate(zip(diagnosis.classes.names, diagnosis.classes.colours, strict=True)):
        share = int(training.counts.pixels[index]) / labelled
        classes.append(
            {
                "name": title,
                "colour": colour,
                "share": share,
                "length": max(0.0, 1 - math.log10(share) / math.log10(FLOOR)) if share else 0.0,
                "images": int(training.counts.images[index]),
                "weights": [weights[index] for weights in diagnosis.class_weights.values()],
            }
        )
    write_page(
        path,
        "doctor.html",
        name=name,
        root=diagnosis.data.root,
        training=training.name,
        errors=_groups(diagnosis.errors),
        warnings=_groups(diagnosis.warnings),
        splits=tiles,
        classes=sorted(classes, key=lambda row: -row["share"]),
        unseen=f"{never} never seen" if never else "all seen",
        ignored=ignored / total if total else None,
        duplicate_count=len(duplicates),
        leaks=f"{sum(duplicate.leak for duplicate in duplicates)} between splits",
        shots=_worst(diagnosis),
        examples=_examples(diagnosis),
        proposal=diagnosis.proposal,
        table=diagnosis.proposal and diagnosis.proposal.classes.to_text(),
        command=write_command(diagnosis.data),
        duplicates=_duplicates(diagnosis),
        sizes=_plot_sizes(sizes, training.name),
        common_sizes=[(f"{height} × {width}", count) for (height, width), count in common],
        weight_names=list(diagnosis.class_weights),
        statistics=diagnosis.statistics_flags(),
        own_weights=diagnosis.own_weights(),
        weight_flags=diagnosis.weight_flags().items(),
    )


def _groups(problems: Sequence[Issue]) -> list[tuple[str, int, list[Issue]]]:
    """Return title and number of the problems of each kind, and the problems that are listed."""
    found = {kind: [problem for problem in problems if problem.kind == kind] for kind in KINDS}
    return [(TITLES[kind], len(listed), listed[:LISTED]) for kind, listed in found.items() if listed]


def _plot_sizes(sizes: Sizes, training: str) -> dict[str, Any] | None:
    """Return the scatter of heights over widths, or None with less than two sizes."""
    different = {size for counted in sizes.values() for size in counted}
    if len(different) < 2:
        return None
    heights, widths = zip(*different, strict=True)
    plot = Plot("Sizes of images", "width [px]", "height [px]", x_max=max(widths), y_max=max(heights))
    # the radius grows with the root of the count
    most = max(count for counted in sizes.values() for count in counted.values())
    dots: list[dict[str, Any]] = []
    for name, counted in sizes.items():
        style = "main" if name == training else "second"
        for (height, width), count in counted.most_common(MAX_DOTS):
            radius, title = round(3 + 11 * math.sqrt(count / most), 2), f"{height}×{width}: {count} in {name}"
            dots.append({"x": plot.across(width), "y": plot.up(height), "r": radius, "style": style, "title": title})
    # Large ones first, so that none is hidden.
    return {"plot": plot, "dots": sorted(dots, key=lambda dot: -dot["r"])}


def _worst(diagnosis: Diagnosis) -> list[Shot]:
    """Return the readable files with problems, those with most errors first."""
    issues: dict[Source, list[Issue]] = defaultdict(list)
    for problem in (*diagnosis.errors, *diagnosis.warnings):
        if problem.source is not None and problem.kind not in {"leak", "duplicate"}:
            issues[problem.source].append(problem)
    # pairs with issues of their image or label
    found: list[tuple[Pair, list[Issue]]] = []
    for pair in (pair for split in diagnosis.splits for pair in split.pairs):
        if problems := issues.get(pair.image, []) + issues.get(pair.label, []):
            found.append((pair, problems))
    found.sort(key=lambda each: (-sum(problem.severity == "error" for problem in each[1]), -len(each[1])))
    return [
        (_frames(pair, diagnosis), pair.stem, [problem.message for problem in problems])
        for pair, problems in found[:SHOTS]
    ]


def _examples(diagnosis: Diagnosis) -> list[Example]:
    """Return training images without errors, class by class: for each in turn the one that shows most of it."""
    classes, wrong = diagnosis.classes, {problem.source for problem in diagnosis.errors}
    found: list[tuple[Pair, Int64[np.ndarray, " k"]]] = [
        (pair, class_pixels(stats.label, classes)[0])
        for pair, stats in zip(diagnosis.training.pairs, diagnosis.training.stats, strict=True)
        if isinstance(stats.label, LabelStats) and not wrong & {pair.image, pair.label}
    ]
    pixels = np.array([each for _, each in found]).reshape(-1, len(classes))
    left = pixels.copy()
    chosen: list[tuple[int, int]] = []
    # rare classes first: frequent ones are in any image
    order = pixels.sum(axis=0).argsort(kind="stable").tolist()
    while left.any() and len(chosen) < SHOTS:
        for index in order:
            if left[:, index].any() and len(chosen) < SHOTS:
                best = int(left[:, index].argmax())
                chosen.append((best, index))
                left[best] = 0
    return [
        (
            _frames(found[place][0], diagnosis),
            found[place][0].stem,
            classes.names[most],
            [(classes.names[index], classes.colours[index]) for index in np.flatnonzero(pixels[place])],
        )
        for place, most in sorted(chosen, key=lambda each: each[1])
    ]


def _frames(pair: Pair, diagnosis: Diagnosis) -> list[str]:
    """Return the image, and the image under its label; the label alone where their sizes differ."""
    image = _read(pair.image, diagnosis.data)
    shown = [] if image is None else [image_uri(image, side=SIDE)]
    try:
        label = torch.from_numpy(diagnosis.classes.encode(read_values(pair.label, diagnosis.classes).numpy()))
    except (OSError, ValueError):
        return shown
    fits = image is not None and image.shape[-2:] == label.shape
    ground = image if image is not None and fits else torch.zeros(3, *label.shape)
    return [*shown, overlay_uri(ground, label, diagnosis.classes, alpha=0.55 if fits else 1.0, side=SIDE)]


def _duplicates(diagnosis: Diagnosis) -> list[Shot]:
    """Return pairs of duplicates with their splits and difference."""
    shots: list[Shot] = []
    for duplicate in diagnosis.duplicates[:SHOTS]:
        pairs = (duplicate.first, duplicate.second)
        images = [_read(pair.image, diagnosis.data) for pair in pairs]
        shown = [image_uri(image, side=SIDE) for image in images if image is not None]
        messages = [f"in {' and '.join(dict.fromkeys(duplicate.splits))}"]
        if duplicate.distance is not None:
            messages.append(f"{duplicate.distance} of 64 bits differ")
        else:
            messages += ["the same file"] if duplicate.same_label else ["the same file", "labels differ"]
        shots.append((shown, " · ".join(pair.stem for pair in pairs), messages))
    return shots


def _read(source: Source, data: DataRecipe) -> Tensor | None:
    """Return an image as RGB in [0, 1], None for one that cannot be read."""
    try:
        return as_rgb(to_float(read_raster(source, data)))
    except (OSError, ValueError):
        return None
