"""Evaluation of a predictor on a data set, divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Subset

from semask.data.loader import Loader
from semask.evaluation.counts import Measures, MetricAccumulator
from semask.evaluation.metrics import Confusion
from semask.inference import Pipeline, Scorer, predictor_of
from semask.structures import Predictor, Sample


class Samples(Protocol):
    """A data set of known length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


def process_share(count: int) -> range:
    """Return this process's indices out of `count`: each index goes to one process, none is repeated."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())
    return range(count)


def count_pixels(confusion: Confusion, predictor: Pipeline, samples: Sequence[Sample]) -> None:
    """Segment samples at their labels' size and count their pixels, on the device of the counts."""
    for group, images in _batches(samples, confusion.matrix.device):
        truth = torch.stack([sample.label for sample in group])
        confusion.update(predictor.labels(images), truth.to(images.device))


def evaluate_model(
    source: Predictor | Scorer,
    samples: Samples,
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    measures: Measures | None = None,
    progress: Callable[[int], None] | None = None,
) -> MetricAccumulator:
    """Segment all samples at their labels' size and return the counts, summed over all processes.

    Neighbouring samples of one size are segmented together, up to `batch_size`. `workers` processes read them; 0 reads
    in this one. `measures` None counts all there are. `progress` is called with the number of samples done since its
    last call. Neither scores nor label maps are kept: memory grows by each image's counts alone.

    >>> import semask, torch
    >>> model = semask.build("scenes/semask-micro-fpn")
    >>> samples = [semask.Sample(torch.rand(3, 40, 50), torch.zeros(40, 50, dtype=torch.uint8), "all sky")]
    >>> counts = semask.evaluate_model(model, samples, num_classes=model.num_classes)
    >>> 0 <= counts.scores().miou <= 1
    True

    Raises:
        ValueError: `batch_size` or `workers` is out of range, or two samples have one name.
        FloatingPointError: scores are NaN or infinite.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0, got {batch_size} and {workers}")
    predictor, accumulator = predictor_of(source), MetricAccumulator(num_classes, measures)
    share: Subset[Sample] = Subset(samples, process_share(len(samples)))  # type: ignore[arg-type]
    loader: Iterable[list[Sample]] = Loader(share, batch_size=batch_size, num_workers=workers, collate_fn=list)
    # segment, then count image by image
    with torch.inference_mode():
        for batch in loader:
            for group, images in _batches(batch, torch.device(device)):
                # the probability of each label is computed for calibration alone
                maps = predictor.labelled(images) if accumulator.calibration else (predictor.labels(images),)
                for sample, label, *confidence in zip(group, *(each.cpu() for each in maps), strict=True):
                    accumulator.update(sample.name, label, sample.label, *confidence)
            if progress is not None:
                progress(len(batch))
    return accumulator.reduce()


def _batches(samples: Sequence[Sample], device: torch.device) -> Iterator[tuple[list[Sample], Tensor]]:
    """Yield neighbouring samples of one size with their images as one tensor."""
    for _, group in groupby(samples, key=lambda sample: sample.image.shape):
        together = list(group)
        yield together, torch.stack([sample.image for sample in together]).to(device)
