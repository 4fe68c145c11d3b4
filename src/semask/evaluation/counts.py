"""Counts of label maps, image by image; nothing else of an image is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float, Integer
from torch import Tensor

from semask.evaluation.metrics import Confusion, Scores
from semask.evaluation.metrics.bootstrap import ImageCounts
from semask.evaluation.metrics.boundary import BoundaryCounts, count_boundaries
from semask.evaluation.metrics.calibration import BINS, Calibration
from semask.evaluation.metrics.confusion import null
from semask.evaluation.metrics.sizes import AREAS, SizeConfusions


class Measures(NamedTuple):
    """Measures beside the confusion matrix.

    areas: limits between sizes of objects [px]; () leaves sizes out. bins: bins of the reliability diagram; 0 leaves
    calibration out.
    """

    boundary: bool = True
    areas: tuple[int, ...] = AREAS
    bins: int = BINS


class MetricAccumulator:
    """Counts of images, all of them whole numbers, so that neither order nor the number of processes changes them."""

    def __init__(self, num_classes: int, measures: Measures | None = None) -> None:
        self.measures = measures = measures or Measures()
        self.confusion = Confusion(num_classes)
        self.boundary = BoundaryCounts.zeros(num_classes) if measures.boundary else None
        self.sizes = SizeConfusions(num_classes, areas=measures.areas) if measures.areas else None
        self.calibration = Calibration(measures.bins) if measures.bins else None
        self.images: dict[str, np.ndarray] = {}
        """Correct, predicted and labelled pixels per class, by the image's name."""

    def update(
        self,
        name: str,
        prediction: Integer[Tensor, "H W"],
        truth: Integer[Tensor, "H W"],
        confidence: Float[Tensor, "H W"] | None = None,
    ) -> None:
        """Count an image.

        Raises:
            ValueError: an image of this name was counted before, or a label is no class.
            FloatingPointError: probabilities are NaN or infinite; the labels of such scores are meaningless.
        """
        if name in self.images:
            raise ValueError(f"two images are named {name!r}; give every image a name of its own")
        if confidence is not None and (wrong := int((~confidence.isfinite()).sum())):
            raise FloatingPointError(
                f"the scores of {name!r} are NaN or infinite in {wrong} of {confidence.numel()} pixels; check whether "
                "the training of this checkpoint diverged, and the image for such values"
            )
        # confusion matrix of this image, and its counts for intervals
        here = Confusion(self.confusion.num_classes)
        here.update(prediction, truth)
        self.confusion.merge(here)
        matrix = here.matrix.numpy()
        self.images[name] = np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]).astype(np.int32)
        # the other measures work on bytes
        ours, theirs = (maps.cpu().to(torch.uint8).numpy() for maps in (prediction, truth))
        if self.boundary is not None:
            self.boundary += count_boundaries(ours, theirs, self.confusion.num_classes)
        if self.sizes is not None:
            self.sizes.update(ours, theirs)
        if self.calibration is not None and confidence is not None:
            self.calibration.update(ours, confidence.float().cpu().numpy(), theirs)

    def reduce(self) -> MetricAccumulator:
        """Return the sum over all processes, on each of them."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        parts: list[MetricAccumulator] = [self] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        total = MetricAccumulator(self.confusion.num_classes, self.measures)
        for part in parts:
            total.merge(part)
        return total

    def merge(self, other: MetricAccumulator) -> None:
        """Add the counts of other images.

        Raises:
            ValueError: both have counted an image of one name.
        """
        if twice := self.images.keys() & other.images.keys():
            raise ValueError(f"image {min(twice)!r} was counted twice")
        self.confusion.merge(other.confusion)
        self.images |= other.images
        if self.boundary is not None and other.boundary is not None:
            self.boundary += other.boundary
        if self.sizes is not None and other.sizes is not None:
            self.sizes.merge(other.sizes)
        if self.calibration is not None and other.calibration is not None:
            self.calibration.merge(other.calibration)

    def scores(self) -> Scores:
        """Return the scores of all pixels counted so far."""
        return self.confusion.scores()

    def image_counts(self) -> ImageCounts:
        """Return the counts of every image, in order of their names."""
        stacked = np.stack([self.images[name] for name in sorted(self.images)]).astype(np.int64)
        return ImageCounts(*stacked.transpose(1, 0, 2))

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return "scores" and, as far as they were measured, "sizes" and "calibration"; `names` are the classes'."""
        scores = self.scores().to_dict(names)
        record: dict[str, object] = {"scores": scores}
        if self.boundary is not None:
            # mean and column of each boundary score
            for key, values in zip(("boundary_iou", "boundary_f"), self.boundary.scores(), strict=True):
                defined = values[np.isfinite(values)]
                scores[key] = float(defined.mean()) if len(defined) else None
                for row, value in zip(scores["classes"], values.tolist(), strict=True):  # type: ignore[call-overload]
                    row[key] = null(value)
        if self.sizes is not None:
            record["sizes"] = self.sizes.to_dict(names)
        if self.calibration is not None:
            record["calibration"] = self.calibration.to_dict()
        return record
