"""Batches for training and evaluation: which rank sees which images, and where a resumed run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from semask.data.dataset import TrainingFiles, collate
from semask.data.loader import Loader
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, TrainRecipe
from semask.structures import IGNORE, Sample
from semask.training.frozen import CachedViews, collate_encoded


def micro_batch(train: TrainRecipe, world_size: int) -> int:
    """Return the images of one forward pass on one device; a ValueError when the batch cannot be shared out evenly."""
    parts = world_size * train.accumulate
    if train.batch_size % parts:
        raise ValueError(
            f"train.batch_size {train.batch_size} cannot be shared out evenly over {world_size} device(s) × "
            f"{train.accumulate} accumulated pass(es); give a multiple of {parts}, such as "
            f"--train.batch-size {(train.batch_size // parts + 1) * parts}"
        )
    return train.batch_size // parts


class ResumableDistributedSampler(Sampler[int]):
    """One rank's share of the draws 0 … steps × batch size, in order, beginning at a given step.

    Each optimiser step takes the next `batch_size` draws whatever the number of ranks and accumulated passes. The
    length counts the whole run, so that Lightning's progress and the end of the run do not depend on where it began.
    """

    def __init__(self, train: TrainRecipe, *, rank: int, world_size: int, first_step: int) -> None:
        self.size = micro_batch(train, world_size)
        self.passes = train.steps * train.accumulate
        self.first_pass = first_step * train.accumulate
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.passes * self.size

    def __iter__(self) -> Iterator[int]:
        for turn in range(self.first_pass, self.passes):
            start = (turn * self.world_size + self.rank) * self.size
            yield from range(start, start + self.size)


class ValidationShare(Dataset[Sample]):
    """One rank's share of a validation set: every rank has as many samples, and no pixel counts twice.

    Where the set does not divide evenly, the share ends with a sample whose labels are all `IGNORE`: strategies that
    communicate in the forward pass need the same number of passes on every rank.
    """

    def __init__(self, samples: Dataset[Sample], *, rank: int, world_size: int) -> None:
        self.samples = samples
        self.count = len(cast(Sized, samples))
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return math.ceil(self.count / self.world_size)

    def __getitem__(self, index: int) -> Sample:
        position = index * self.world_size + self.rank
        if position < self.count:
            return self.samples[position]
        sample = self.samples[self.count - 1]
        return sample._replace(label=torch.full_like(sample.label, IGNORE))


class SegmentationData(LightningDataModule):
    """Training draws and validation samples; its state is the step that a resumed run begins with."""

    def __init__(self, draws: Dataset[Sample], val: Dataset[Sample], recipe: Recipe, *, workers: int) -> None:
        """`draws` are indexed by draw numbers ≥ 0; `workers` processes per rank load them, 0 loads in this one."""
        super().__init__()
        self.draws, self.val = draws, val
        self.recipe = recipe
        self.workers = workers
        self.first_step = 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Return one pass over what is left of the run."""
        train = self.recipe.train
        rank, world_size = self._place()
        sampler = ResumableDistributedSampler(train, rank=rank, world_size=world_size, first_step=self.first_step)
        draws = self.draws
        if train.cached_views is None:
            return self._loader(draws, size=sampler.size, together=collate, sampler=sampler)
        # Only now does the encoder hold the weights of the checkpoint that a run goes on from.
        model = self.trainer.lightning_module.model if self.trainer else None
        assert isinstance(model, SegmentationModel) and isinstance(draws, TrainingFiles)  # noqa: PT018 — check_frozen
        # A run shorter than its views does not need them all.
        count = min(train.cached_views * len(draws), train.steps * train.batch_size)
        views = CachedViews(draws, model, count=count, workers=self.workers)
        return self._loader(views, size=sampler.size, together=collate_encoded, sampler=sampler, workers=0)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return this rank's share of the validation images, as lists, since their sizes may differ."""
        rank, world_size = self._place()
        share = ValidationShare(self.val, rank=rank, world_size=world_size)
        return self._loader(share, size=self.recipe.test.batch_size, together=list)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser steps done."""
        return {"step": self.trainer.global_step if self.trainer else self.first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin with the step after those done."""
        self.first_step = int(state_dict["step"])

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(
        self,
        samples: Dataset[Any],
        *,
        size: int,
        together: Callable[[list[Any]], object],
        sampler: Sampler[int] | None = None,
        workers: int | None = None,
    ) -> DataLoader[Any]:
        workers = self.workers if workers is None else workers
        return Loader(
            samples,
            batch_size=size,
            sampler=sampler,
            collate_fn=together,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: a loader that drew from the global one would make resumed runs differ.
            generator=torch.Generator().manual_seed(self.recipe.train.seed),
        )
