"""Scores by the size of objects: connected regions of a class in the truth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from scipy.ndimage import find_objects, label

from semask.evaluation.metrics.confusion import Confusion
from semask.structures import IGNORE

AREAS = (32**2, 96**2)
"""COCO's limits between small, medium and large objects [px]."""
EIGHT = np.ones((3, 3), np.int8)
"""Pixels are connected across corners too."""


class SizeConfusions:
    """One confusion matrix per range of sizes, over the pixels whose object in the truth is of that size.

    An object is a connected region of one class in the truth, taken as it is: two cars that touch are one. A pixel that
    is predicted wrongly counts against its own object and, as a false positive, in that object's range of sizes; so the
    matrices add up to that of all pixels. Means are over the classes that have objects of the size. `areas` are the
    limits [px]: the first range is below the first limit.

    Source: Segmenter (arXiv:2105.05633) Table 4 compares sizes, but its definition was never published. This one is
    ours, with COCO's limits.
    """

    def __init__(self, num_classes: int, *, areas: Sequence[int] = AREAS) -> None:
        if not areas or any(area < 1 for area in areas) or sorted(set(areas)) != list(areas):
            raise ValueError(f"areas between sizes must rise from at least 1 px, such as {AREAS}; got {areas}")
        self.areas = tuple(areas)
        self.confusions = [Confusion(num_classes) for _ in range(len(areas) + 1)]
        self.objects = [0] * (len(areas) + 1)

    def update(self, prediction: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]) -> None:
        """Count one image."""
        # range of sizes of each pixel's object, IGNORE without one
        ranges = np.full(truth.shape, IGNORE, np.uint8)
        for number, box in enumerate(find_objects(truth.astype(np.int32) + 1)):
            if box is None or number == IGNORE:
                continue
            regions, count = label(truth[box] == number, structure=EIGHT)
            areas = np.bincount(regions.ravel(), minlength=count + 1)
            sizes = np.searchsorted(self.areas, areas, side="right").astype(np.uint8)
            for size in sizes[1:]:
                self.objects[size] += 1
            inside = regions > 0
            ranges[box][inside] = sizes[regions[inside]]
        # pixels of each range
        for number, confusion in enumerate(self.confusions):
            here = ranges == number
            if here.any():
                confusion.update(torch.from_numpy(prediction[here]), torch.from_numpy(truth[here]))

    def merge(self, other: SizeConfusions) -> None:
        """Add the counts of other images, of the same classes and areas."""
        if other.areas != self.areas:
            raise ValueError(f"sizes with limits at {other.areas} px cannot be added to those at {self.areas} px")
        for ours, theirs in zip(self.confusions, other.confusions, strict=True):
            ours.merge(theirs)
        self.objects = [ours + theirs for ours, theirs in zip(self.objects, other.objects, strict=True)]

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return thresholds, and objects and scores of every range, as JSON values."""
        between = [f"{low} to {high - 1} px" for low, high in itertools.pairwise(self.areas)]
        titles = [f"below {self.areas[0]} px", *between, f"from {self.areas[-1]} px"]
        if len(self.areas) == 2:
            titles = ["small", "medium", "large"]
        bins = []
        for title, objects, confusion in zip(titles, self.objects, self.confusions, strict=True):
            scores = confusion.scores()
            # Classes without objects of this size are only ever predicted here by mistake: they leave the means.
            absent = scores.pixels == 0
            iou, dice = (values.masked_fill(absent, float("nan")) for values in (scores.iou, scores.dice))
            scores = scores._replace(iou=iou, dice=dice, miou=iou.nanmean().item(), mdice=dice.nanmean().item())
            bins.append({"name": title, "objects": objects, **scores.to_dict(names)})
        return {"thresholds": list(self.areas), "bins": bins}
