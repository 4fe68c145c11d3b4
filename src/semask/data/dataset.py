"""Datasets by draw number: the number alone decides the image and its augmentation, for any workers and processes.

To resume at step t, or to split a batch over devices, a loader asks for the right numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from semask.data import sampling
from semask.data.augment.copy_paste import CopyPaste
from semask.data.augment.transforms import TrainTransform
from semask.data.checks.propose import propose, write_command
from semask.data.classes import UNKNOWN, Classes, packaged
from semask.data.decoded import DecodedPairs, fits
from semask.data.label_values import name_of
from semask.data.pairs import Pair, find_pairs, stored_classes
from semask.data.readers.image import read_label
from semask.data.readers.raster import ImageTensor, check_channels, read_raster
from semask.data.readers.source import Source
from semask.data.readers.tree import warn_once
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.ops.resize import to_float
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from semask.structures import Batch, Sample

logger = logging.getLogger(__name__)


def classes_of(data: DataRecipe) -> Classes:
    """Return the recipe's class table: the scenes' own, the one it names, ROOT/classes.json, or one made of the labels.

    A table that the labels allow to assume is warned of; `semask.data.checks.propose` has its rules.

    Raises:
        ValueError: the table is invalid, or there is none and the labels do not show one.
    """
    if data.kind == "scenes":
        return SCENE_CLASSES
    stored = stored_classes(data)
    if stored is not None:
        return stored
    proposal = propose(data)
    write = f"`{write_command(data)}` writes it, to name the classes"
    if not proposal.safe:
        raise ValueError(
            f"no class table in {data.root}, and the labels leave its meaning open: {proposal.reason}; {write}; or "
            f"name a packaged table ({', '.join(packaged())}) or a file by --data.classes"
        )
    hint = proposal.hint and f". {proposal.hint}"
    warn_once(f"no class table in {data.root}: {proposal.reason}, so {proposal.classes.describe()}; {write}{hint}")
    return proposal.classes


def training_set(
    data: DataRecipe, *, seed: int, mean: tuple[float, ...] = IMAGENET_MEAN
) -> TrainingFiles | TrainingScenes:
    """Return the endless training set, indexed by draw numbers ≥ 0; `mean` fills the padding.

    Raises:
        ValueError: `data.fraction` is no share, or scenes shall be a share, pasted or repeated.
    """
    if not 0 < data.fraction <= 1:
        raise ValueError(f"data.fraction is a share of the training images and lies in (0, 1], got {data.fraction:g}")
    if data.kind == "scenes":
        if data.fraction != 1:
            raise ValueError(f"scenes never repeat, so there is no {data.fraction:g} of them; use --data.fraction 1")
        if data.rare_crops or data.repeat_threshold is not None or data.copy_paste:
            raise ValueError(
                "scenes are drawn anew, so none is rare or pasted; use --data.rare-crops 0 --data.repeat-threshold "
                "None --data.copy-paste 0"
            )
        return TrainingScenes(data.scene_size, TrainTransform(data, mean=mean), seed=seed)
    # a smaller training set, fixed by the seed
    pairs = share_of(find_pairs(data, data.train_split), data.fraction, seed=seed)
    classes = classes_of(data)
    weights = factors = None
    # only sampling by class needs the contents of all labels
    if data.rare_crops or data.repeat_threshold is not None:
        pixels = sampling.class_pixels(pairs, data, classes)
        weights = sampling.rarity(pixels, data.rare_temperature) if data.rare_crops else None
        factors = None if data.repeat_threshold is None else sampling.repeat_factors(pixels, data.repeat_threshold)
    return TrainingFiles(pairs, classes, TrainTransform(data, mean=mean, rarity=weights), seed=seed, factors=factors)


def share_of(pairs: Sequence[Pair], fraction: float, *, seed: int) -> list[Pair]:
    """Return that share of the pairs, rounded up, in their order; for one seed smaller shares lie within larger ones.

    Source: Segmenter (arXiv:2105.05633) §4, the study of the training set's size.
    """
    order = sampling.stream(sampling.SHARE, seed, 0).permutation(len(pairs))
    count = math.ceil(fraction * len(pairs) - 1e-9)  # 0.55 of 100 is 55, and a little more in floating point
    return [pairs[index] for index in sorted(order[: max(count, 1)])]


def validation_set(data: DataRecipe, split: str | None = None) -> ValidationFiles | ValidationScenes:
    """Return the images of a split at their own size, unaugmented; None is the validation split.

    Raises:
        ValueError: the split cannot be found, or scenes shall have another than that for validation.
    """
    if data.kind == "scenes":
        if split not in (None, data.val_split):
            raise ValueError(f"scenes have a validation split alone, got {split!r}; leave out --split")
        return ValidationScenes(data.scene_count, data.scene_size)
    check_channels(data)
    return ValidationFiles(find_pairs(data, split or data.val_split), classes_of(data), data)


class TrainingFiles(Dataset[Sample]):
    """Pairs of files in a new order every epoch; the draw decides the image, its augmentation and its pasting."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: Classes,
        transform: TrainTransform,
        *,
        seed: int,
        factors: Float64[np.ndarray, " n"] | None = None,
    ) -> None:
        """`factors` are those of `repeat_factors`; None shows every image once an epoch."""
        self.pairs, self.classes, self.transform, self.seed = tuple(pairs), classes, transform, seed
        self.order = sampling.ImageOrder(len(self.pairs), seed=seed, factors=factors)
        self.pasting = CopyPaste(transform.data, classes) if transform.data.copy_paste else None
        self.decoded: DecodedPairs | None = None

    def keep_decoded(self, gibibytes: float) -> bool:
        """Decode every file once, if all of them take no more than that; return whether they do."""
        if fits(self.pairs, self.transform.data, gibibytes):
            self.decoded = DecodedPairs(self.transform.data)
        return self.decoded is not None

    def __len__(self) -> int:
        """Return the number of images; draw numbers go beyond it."""
        return len(self.pairs)

    def __getitem__(self, draw: int) -> Sample:
        index, random = self.order.index(_checked(draw)), sampling.stream(sampling.AUGMENT, self.seed, draw)
        view = self._view(index, random)
        if self.pasting is not None:
            # a stream of its own: with and without pasting, images are cropped and distorted alike
            paste = sampling.stream(sampling.PASTE, self.seed, draw)
            if paste.random() < self.pasting.share:
                view = self.pasting.paste(view, self._view(int(paste.integers(len(self.pairs))), paste), paste)
        return Sample(*self.transform.finish(*view, random), self.pairs[index].stem)

    def _view(self, index: int, random: np.random.Generator) -> tuple[ImageTensor, UInt8[Tensor, "h w"]]:
        pair, data = self.pairs[index], self.transform.data
        if self.decoded is not None:
            decoded = self.decoded.get(index, partial(read_pair, pair, self.classes, data))
            return self.transform.view(*decoded, random)
        if not data.jpeg_draft:
            return self.transform.view(*read_pair(pair, self.classes, data), random)
        # the drawn size comes first, since it decides at which size the JPEG is decoded
        draw_size = partial(self.transform.draw_size, random=random)
        image, label, size = read_reduced_pair(pair, self.classes, data, draw_size)
        return self.transform.view(image, label, random, size=size)


class TrainingScenes(Dataset[Sample]):
    """A fresh scene for every draw."""

    def __init__(self, size: tuple[int, int], transform: TrainTransform, *, seed: int) -> None:
        self.size, self.transform, self.seed = size, transform, seed

    def __getitem__(self, draw: int) -> Sample:
        number = int(sampling.stream(sampling.SCENE, self.seed, _checked(draw)).integers(2**62)) * 2 + 1
        image, label = _scene(number, self.size)
        return Sample(
            *self.transform(image, label, sampling.stream(sampling.AUGMENT, self.seed, draw)), f"scene {number}"
        )


class ValidationFiles(Dataset[Sample]):
    """Pairs of files, in order of their stems."""

    def __init__(self, pairs: Sequence[Pair], classes: Classes, data: DataRecipe) -> None:
        self.pairs, self.classes, self.data = tuple(pairs), classes, data

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, label = read_pair(pair, self.classes, self.data)
        return Sample(to_float(image), label, pair.stem)

    def name(self, index: int) -> str:
        """Return the name of a sample without reading it."""
        return self.pairs[index].stem


class ValidationScenes(Dataset[Sample]):
    """The scenes of even seeds 0, 2, 4, …; training draws odd ones, so that no scene is in both."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        if count < 1:
            raise ValueError(f"scene_count {count}: at least 1 scene is needed")
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        image, label = _scene(2 * index, self.size)
        return Sample(to_float(image), label, self.name(index))

    def name(self, index: int) -> str:
        """Return the name of a sample without drawing it."""
        return f"scene {2 * index}"


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of one size.

    Raises:
        ValueError: the sizes differ.
    """
    sizes = {tuple(sample.label.shape): sample.name for sample in samples}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {height}×{width}" for (height, width), name in list(sizes.items())[:3])
        raise ValueError(f"images of different sizes cannot share a batch ({listed}); use a batch size of 1")
    images, labels = (torch.stack(list(part)) for part in zip(*(sample[:2] for sample in samples), strict=True))
    return Batch(images, labels, tuple(sample.name for sample in samples))


def read_pair(pair: Pair, classes: Classes, data: DataRecipe) -> tuple[ImageTensor, UInt8[Tensor, "H W"]]:
    """Read an image by the recipe, and its label as class numbers.

    Raises:
        ValueError: a file cannot be read, the sizes differ, or a label value is not in the label map.
    """
    image, source = read_raster(pair.image, data), read_values(pair.label, classes)
    return image, _encode(pair, classes, image, source)


def read_values(label: Source, classes: Classes) -> Integer[Tensor, "H W"]:
    """Read the values of a label file as a class table lists them, for `Classes.encode`.

    Raises:
        ValueError: as for `read_label`.
    """
    return read_label(label, by_colour=classes.by_colour, lossy=bool(classes.ranges))


def read_reduced_pair(
    pair: Pair, classes: Classes, data: DataRecipe, draw_size: Callable[[int, int], tuple[int, int]]
) -> tuple[ImageTensor, UInt8[Tensor, "H W"], tuple[int, int]]:
    """Read a pair for the size that is drawn from the label's: the image may have 1, ½, ¼ or ⅛ of its own.

    Raises:
        ValueError: as for `read_pair`.
    """
    source = read_values(pair.label, classes)
    size = draw_size(*source.shape)
    image = read_raster(pair.image, data, at_least=size)
    return image, _encode(pair, classes, image, source, factors=(1, 2, 4, 8)), size


def _encode(
    pair: Pair, classes: Classes, image: ImageTensor, source: Tensor, *, factors: tuple[int, ...] = (1,)
) -> UInt8[Tensor, "H W"]:
    """Return a label as class numbers, after a check of the image's size and of all values."""
    if all(image.shape[1:] != tuple(-(-side // factor) for side in source.shape) for factor in factors):
        raise ValueError(
            f"{pair.label}: label of {source.shape[0]}×{source.shape[1]} for an image of "
            f"{image.shape[1]}×{image.shape[2]} pixels; make them one size"
        )
    label = classes.encode(source.numpy())
    if (unknown := label == UNKNOWN).any():
        # the first unknown value stands for all
        value = int(source.numpy()[unknown][0])
        raise ValueError(f'{pair.label}: value {name_of(value)} is in no class; add it to "labels" of the class table')
    return torch.from_numpy(label.astype(np.uint8))


def _scene(number: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    image, label = draw_scene(number, size)
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)


def _checked(draw: int) -> int:
    if draw < 0:
        raise IndexError(f"draw {draw}: draws are counted from 0")
    return draw
