"""Measurements of a data set from which training settings follow: sizes, shares and widths of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from semask.data.checks.class_counts import count_classes
from semask.data.checks.file_stats import ImageStats, LabelStats
from semask.data.checks.scan import scan
from semask.data.checks.value_range import FoundRange, find_value_range
from semask.data.classes import Classes
from semask.data.dataset import read_values
from semask.data.pairs import find_pairs
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

LOOKED_AT = 48
"""Labels whose outlines are measured."""


class Fingerprint(NamedTuple):
    """Measurements of a data set.

    images, validation_pixels: training images, and all pixels of validation images. height, width: medians [px].
    spread: the 90th over the 10th percentile of the images' sides √(h·w). largest: pixels of the largest image.
    pixels: labelled training pixels by class. thickness: of each class's regions [px]; 0 where it is absent.
    value_range: of the stored values of all images, where neither their type nor the recipe gives it.
    """

    images: int
    validation_pixels: int
    height: int
    width: int
    spread: float
    largest: int
    pixels: tuple[int, ...]
    thickness: tuple[float, ...]
    value_range: FoundRange | None = None


def fingerprint(data: DataRecipe, classes: Classes, *, progress: bool = False) -> Fingerprint:
    """Measure a data set; files that an earlier check saw are not read again.

    Raises:
        ValueError: The pairs cannot be found, or no image or label can be read.
    """
    training, validation = (find_pairs(data, split) for split in (data.train_split, data.val_split))
    # the range first: floats cannot be read without one
    value_range = find_value_range([*training, *validation], data)
    if value_range is not None:
        data = replace(data, value_range=value_range[:2])
    both = scan([*training, *validation], data, thorough=False, progress=progress)
    stats, known = both[: len(training)], [each.image for each in both[len(training) :]]
    images = [each.image for each in stats if isinstance(each.image, ImageStats)]
    labels = [each.label for each in stats if isinstance(each.label, LabelStats)]
    if not images or not labels:
        raise ValueError("no training image and label can be read; `semask doctor` names the cause of each")
    sizes = np.array([(image.height, image.width) for image in images])
    low, high = np.percentile(np.sqrt(sizes.prod(axis=1)), (10, 90))
    counts = count_classes(labels, classes).pixels
    # outlines of some labels, evenly chosen
    chosen = training[:: -(-len(training) // LOOKED_AT)]
    encoded = [classes.encode(read_values(pair.label, classes).numpy()).astype(np.uint8) for pair in chosen]
    return Fingerprint(
        images=len(training),
        validation_pixels=sum(image.height * image.width for image in known if isinstance(image, ImageStats)),
        height=int(np.median(sizes[:, 0])),
        width=int(np.median(sizes[:, 1])),
        spread=float(high / low),
        largest=int(sizes.prod(axis=1).max()),
        pixels=tuple(counts.tolist()),
        thickness=tuple(thickness(encoded, len(classes)).round(2).tolist()),
        value_range=value_range,
    )


def thickness(labels: Sequence[UInt8[np.ndarray, "h w"]], num_classes: int) -> Float64[np.ndarray, " k"]:
    """Mean width of each class's regions [px]: 2 · area / perimeter, 0 where a class is absent.

    A line of width w has w, a disc of diameter d about d / 2. The perimeter counts sides of pixels that two classes
    share; borders of the image and of ignored pixels do not count. A class without any has its largest side.
    """
    area, perimeter, side = (np.zeros(IGNORE + 1) for _ in range(3))
    for ids in labels:
        present = np.bincount(ids.ravel(), minlength=IGNORE + 1)
        area += present
        side = np.where(present > 0, np.maximum(side, max(ids.shape)), side)
        for one, other in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
            differ = (one != other) & (one != IGNORE) & (other != IGNORE)
            for part in (one, other):
                perimeter += np.bincount(part[differ], minlength=IGNORE + 1)
    width = np.minimum(2 * area / np.maximum(perimeter, 1), side)
    return width[:num_classes]
