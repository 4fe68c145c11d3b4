"""Heuristics on a data set as a whole: rare classes, few images, sizes, and the range of values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from semask.data.checks.file_stats import LabelStats, PixelStats
from semask.data.checks.issue import Issue
from semask.data.checks.split import Split
from semask.data.classes import Classes
from semask.data.pairs import Pair
from semask.text import fold, pluralize

FEW_IMAGES, FEW_PIXELS = 5, 1e-5
"""A class in fewer training images, or in a smaller share of their labelled pixels, is near-empty."""
SMALL_SIDE, LARGE_AREA = 32, 2**24
"""[px] Images beyond these limits are reported."""
DIM = 0.25
"""Images none of which reaches this share of the range have fewer bits than their files."""
SHOWN = 8


def balance_issues(splits: Sequence[Split], training: Split, classes: Classes) -> Iterator[Issue]:
    """Report few images, and classes that are rare or absent in training."""
    counts = training.counts
    # of few images every class is in few: that is one issue, of the set
    images = sum(isinstance(stats.label, LabelStats) for stats in training.stats)
    if images < FEW_IMAGES:
        message = (
            f"{pluralize(images, 'training image')}, fewer than {FEW_IMAGES}: a model learns them by heart, and "
            "scores change from split to split; label more"
        )
        yield Issue("classes", message, severity="warning")
    # absent in all splits; in others alone; rare
    nowhere = sum((split.counts.pixels for split in splits), np.zeros(len(classes), np.int64)) == 0
    unseen = (counts.pixels == 0) & ~nowhere
    share = counts.pixels / max(1, counts.pixels.sum())
    few = (counts.images < FEW_IMAGES) & (images >= FEW_IMAGES)
    rare = (counts.pixels > 0) & (few | (share < FEW_PIXELS))
    for chosen, message in (
        (unseen, "in other splits and never in training: the model cannot learn them, and scores suffer"),
        (nowhere, "in no label at all: is the class table the one of these labels?"),
        (rare, f"near-empty: in fewer than {FEW_IMAGES} training images or {FEW_PIXELS:.3%} of their pixels"),
    ):
        numbers = np.flatnonzero(chosen)
        names = fold([classes.names[number] for number in numbers], SHOWN)
        which = f"{len(numbers)} classes ({names}) are" if len(numbers) > 1 else f"the class {names} is"
        if len(numbers):
            yield Issue("classes", f"{which} {message}", severity="warning")


def image_issues(splits: Sequence[Split]) -> Iterator[Issue]:
    """Report images of one brightness, and very small and very large ones."""
    for pair, image in (entry for split in splits for entry in split.images()):
        size = f"{image.height}×{image.width} pixels"
        if image.pixels is not None and image.pixels.signature is None:
            message = "one brightness all over: is it an image? remove it if not"
            yield Issue("flat", message, pair.image, "warning")
        if min(image.height, image.width) < SMALL_SIDE:
            message = f"{size}, less than {SMALL_SIDE} on a side: is it a thumbnail?"
            yield Issue("extent", message, pair.image, "warning")
        if image.height * image.width > LARGE_AREA:
            message = f"{size}: slow to read for one crop each; cut it into tiles"
            yield Issue("extent", message, pair.image, "warning")


def channel_issues(splits: Sequence[Split]) -> Iterator[Issue]:
    """Report channels read as transparency, and images that leave most of their range unused."""
    decoded: list[tuple[Pair, PixelStats]] = [
        (pair, image.pixels) for split in splits for pair, image in split.images() if image.pixels is not None
    ]
    # a fourth channel
    transparent = [pair for pair, pixels in decoded if pixels.transparent]
    if transparent:
        message = (
            f"{len(transparent)} of {len(decoded)} images have a fourth channel, which is read as transparency: they "
            "are laid over white. If it is a band of its own, such as infrared, use --data.channels 4"
        )
        yield Issue("bands", message, transparent[0].image, "warning")
    # images of 12 bits, for example, in files of 16
    highest = max((pixels.highest for _, pixels in decoded), default=1.0)
    if highest < DIM:
        message = (
            f"no value of any image is above {highest:.2%} of the range ({65535 * highest:.0f} of 65535 in 16 bits): "
            "augmentation and the weights of pretrained encoders expect all of it. Give the values that become 0 and "
            f"1, such as --data.value-range 0 {2 ** max(1, math.ceil(math.log2(65535 * highest + 1))) - 1} for 16 bits"
        )
        yield Issue("bands", message, severity="warning")
