"""A predictor over a data set, shared out among processes, into one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Protocol

import torch
import torch.distributed
from torch.utils.data import DataLoader, Subset

from semask.inference import Predictor
from semask.metrics import Confusion
from semask.structures import Sample


class Samples(Protocol):
    """A data set of known length."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return one sample."""


def process_share(count: int) -> range:
    """Return this process's indices out of `count`: each index goes to one process, none is repeated."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())
    return range(count)


def count_pixels(confusion: Confusion, predictor: Predictor, samples: Sequence[Sample]) -> None:
    """Score samples at their labels' own size and count their pixels, on the device of the counts.

    Neighbouring samples of one size go through the predictor together.
    """
    device = confusion.matrix.device
    for _, group in groupby(samples, key=lambda sample: sample.image.shape):
        images, labels, _ = zip(*group, strict=True)
        scores = predictor(torch.stack(images).to(device))
        confusion.update(scores.argmax(dim=1), torch.stack(labels).to(device))


def evaluate_model(
    predictor: Predictor,
    samples: Samples,
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Confusion:
    """Score all samples at their labels' own size and return the counts, summed over all processes.

    Neighbouring samples of one size are scored together, up to `batch_size`; `workers` processes read them, 0 reads in
    this one. `progress` is told how many samples were done since it was last called.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0, got {batch_size} and {workers}")
    confusion = Confusion(num_classes, device=device)
    share: Subset[Sample] = Subset(samples, process_share(len(samples)))  # type: ignore[arg-type]
    loader: Iterable[list[Sample]] = DataLoader(share, batch_size=batch_size, num_workers=workers, collate_fn=list)
    with torch.inference_mode():
        for batch in loader:
            count_pixels(confusion, predictor, batch)
            if progress is not None:
                progress(len(batch))
    return confusion.reduce()
