"""A predictor over a data set, shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from semask.evaluation.counts import Measures, Tally
from semask.evaluation.metrics import Confusion
from semask.inference import Model, Predictor, Scorer, predictor_of
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
    """Segment samples at their labels' own size and count their pixels, on the device of the counts.

    Neighbouring samples of one size go through the predictor together.
    """
    for group, images in _batches(samples, confusion.matrix.device):
        truth = torch.stack([sample.label for sample in group])
        confusion.update(predictor.labels(images), truth.to(images.device))


def evaluate_model(
    source: Model | Predictor | Scorer,
    samples: Samples,
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    measures: Measures | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Segment all samples at their labels' own size and return the counts, summed over all processes.

    Neighbouring samples of one size are segmented together, up to `batch_size`; `workers` processes read them, 0 reads
    in this one. `measures` None counts all there are. `progress` is told how many samples were done since it was last
    called. Neither scores nor pictures are kept: memory does not grow with the data set but by each image's counts.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0, got {batch_size} and {workers}")
    predictor, tally = predictor_of(source), Tally(num_classes, measures)
    share: Subset[Sample] = Subset(samples, process_share(len(samples)))  # type: ignore[arg-type]
    loader: Iterable[list[Sample]] = DataLoader(share, batch_size=batch_size, num_workers=workers, collate_fn=list)
    with torch.inference_mode():
        for batch in loader:
            for group, images in _batches(batch, torch.device(device)):
                _count(tally, predictor, group, images)
            if progress is not None:
                progress(len(batch))
    return tally.reduce()


def _count(tally: Tally, predictor: Predictor, samples: Sequence[Sample], images: Tensor) -> None:
    if tally.needs_confidence:
        labels, confidence = (maps.cpu() for maps in predictor.labelled(images))
        sure: Sequence[Tensor | None] = list(confidence)
    else:
        labels, sure = predictor.labels(images).cpu(), [None] * len(samples)
    for sample, prediction, how_sure in zip(samples, labels, sure, strict=True):
        tally.update(sample.name, prediction, sample.label, how_sure)


def _batches(samples: Sequence[Sample], device: torch.device) -> Iterator[tuple[list[Sample], Tensor]]:
    """Yield neighbouring samples of one size with their images as one tensor."""
    for _, group in groupby(samples, key=lambda sample: sample.image.shape):
        together = list(group)
        yield together, torch.stack([sample.image for sample in together]).to(device)
