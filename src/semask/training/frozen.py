"""Training a decoder on a frozen encoder, whose features are computed once and kept on disk."""

from __future__ import annotations

import fnmatch
import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from semask.data.dataset import TrainingFiles, collate
from semask.data.loader import Loader
from semask.data.sampling import shuffled
from semask.models.model import SegmentationModel
from semask.recipes import Recipe
from semask.recipes.encoders import PyramidViTOptions
from semask.structures import Batch, EncodedBatch
from semask.text import Progress

ENCODED_AT_ONCE = 4
"""Images per forward pass of the encoder."""


class EncodedSample(NamedTuple):
    """One view: the maps of its Features, its label as padded, and its image's name."""

    maps: tuple[Tensor, ...]
    label: Tensor
    name: str


def freeze(encoder: nn.Module) -> None:
    """Take an encoder out of training."""
    encoder.requires_grad_(False)
    encoder.eval()


def freeze_matching(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters out of training whose names match a pattern, * standing for any text.

    Raises:
        ValueError: A pattern matches none, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            parts = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) + ".*" for name in names))
            raise ValueError(f"--freeze {pattern} matches no parameter; names begin with {parts}")
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"--freeze {' '.join(patterns)} leaves nothing to train; leave some parameters out")


def check_frozen(recipe: Recipe, world_size: int) -> None:
    """Raise a ValueError where an encoder cannot be frozen, or its features cannot be kept."""
    train = recipe.train
    spec = recipe.model.encoder
    fresh = None
    if spec.semantic is not None:
        fresh = f"{spec.semantic.kind}, use --semantic none"
    elif isinstance(spec, PyramidViTOptions):
        fresh = f"pyramid levels, use --decoder segmenter_linear --encoder {spec.name}"
    if train.freeze_encoder and fresh is not None:
        raise ValueError(
            "a frozen encoder keeps all that it has as it is, and some of it starts from random weights: "
            f"{fresh}, or --train.freeze-encoder false"
        )
    if train.cached_views is None:
        return
    if train.cached_views < 1:
        raise ValueError(
            f"train.cached_views must be at least 1, or None to encode every draw; got {train.cached_views}"
        )
    if not train.freeze_encoder:
        raise ValueError(
            "features can be kept only while the encoder does not change; add --train.freeze-encoder true, or use "
            "--train.cached-views None"
        )
    if recipe.data.kind == "scenes" or world_size > 1:
        raise ValueError(
            "features are kept for images from files and in one process; use --train.cached-views None, or --devices 1"
        )


class CachedViews(Dataset[EncodedSample]):
    """Augmented views of all training images as a frozen encoder sees them, in a new order every pass over them.

    The views are the first `count` draws. Maps are kept in half precision and labels in 8 bits, in a folder of the
    system's temporary space (TMPDIR) that goes when this object does. What does not fit there is a ValueError.
    """

    def __init__(self, draws: TrainingFiles, model: SegmentationModel, *, count: int, workers: int) -> None:
        self.count, self.seed = count, draws.seed
        self.names: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="semask-features-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.maps: list[np.memmap] = []
        self.labels: np.memmap | None = None
        loader = Loader(
            Subset(draws, range(self.count)),
            batch_size=ENCODED_AT_ONCE,
            collate_fn=collate,
            num_workers=workers,
            generator=torch.Generator().manual_seed(0),
        )
        with Progress("encoding once", self.count) as bar:
            for batch in loader:
                self._keep(batch, model)
                bar.advance(len(batch.names))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: int) -> EncodedSample:
        turn, position = divmod(draw, self.count)
        index = shuffled(self.seed, turn, self.count)[position]
        assert self.labels is not None  # the loader of a split is never empty
        maps = tuple(torch.from_numpy(stored[index].astype(np.float32)) for stored in self.maps)
        return EncodedSample(maps, torch.from_numpy(self.labels[index].copy()), self.names[index])

    @torch.no_grad()
    def _keep(self, batch: Batch, model: SegmentationModel) -> None:
        features = model.encode(batch.images.to(model.mean.device))
        labels = model.pad_labels(batch.labels).numpy()
        if self.labels is None:
            shapes = [level.shape[1:] for level in features.maps]
            self._check_space(2 * sum(map(math.prod, shapes)) + math.prod(labels.shape[1:]))
            self.maps = [self._store(f"stage{stage}", shape, np.float16) for stage, shape in enumerate(shapes)]
            self.labels = self._store("labels", labels.shape[1:], np.uint8)
        rows = slice(len(self.names), len(self.names) + len(labels))
        for stored, level in zip(self.maps, features.maps, strict=True):
            half = level.half()
            if not torch.isfinite(half).all():
                raise ValueError(
                    f"the encoder's features of {', '.join(batch.names)} are not finite in half precision, in which "
                    "they are kept; use --train.cached-views None, or use an encoder that ends with a norm"
                )
            stored[rows] = half.cpu().numpy()
        self.labels[rows] = labels
        self.names += batch.names

    def _store(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
        stored: np.memmap = open_memmap(
            self._folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(self.count, *shape)
        )
        return stored

    def _check_space(self, bytes_per_view: int) -> None:
        """Look before writing: a full disk under a mapped file ends the process without a word."""
        needed, free = self.count * bytes_per_view, shutil.disk_usage(self._folder).free
        if needed > free:
            raise ValueError(
                f"the features of {self.count} views take {needed / 2**30:.1f} GiB and {self._folder.parent} has "
                f"{free / 2**30:.1f}; lower --train.cached-views, use None to encode every draw, or let the "
                "environment variable TMPDIR name a larger disk"
            )


def collate_encoded(samples: list[EncodedSample]) -> EncodedBatch:
    """Stack views, which are all of the crop's size."""
    maps, labels, names = zip(*samples, strict=True)
    return EncodedBatch(tuple(torch.stack(level) for level in zip(*maps, strict=True)), torch.stack(labels), names)
