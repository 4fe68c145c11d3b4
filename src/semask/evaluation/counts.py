"""Everything that is counted about label maps, image by image; nothing of an image is kept but its counts."""

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
    """What is counted beside the confusion matrix.

    areas: limits between sizes of objects [px]; none leaves sizes out. bins: of the reliability diagram; 0 leaves
    calibration out.
    """

    boundary: bool = True
    areas: tuple[int, ...] = AREAS
    bins: int = BINS


class Tally:
    """Counts of images, all of them whole numbers, so that neither order nor the number of processes changes them."""

    def __init__(self, num_classes: int, measures: Measures | None = None) -> None:
        self.measures = measures = measures or Measures()
        self.confusion = Confusion(num_classes)
        self.boundary = BoundaryCounts.zeros(num_classes) if measures.boundary else None
        self.sizes = SizeConfusions(num_classes, areas=measures.areas) if measures.areas else None
        self.calibration = Calibration(measures.bins) if measures.bins else None
        self.images: dict[str, np.ndarray] = {}
        """Of every image by its name: right, predicted and labelled pixels per class."""

    @property
    def needs_confidence(self) -> bool:
        """Whether probabilities are asked for, and not labels alone."""
        return self.calibration is not None

    def update(
        self,
        name: str,
        prediction: Integer[Tensor, "H W"],
        truth: Integer[Tensor, "H W"],
        confidence: Float[Tensor, "H W"] | None = None,
    ) -> None:
        """Count an image, whose name no other has.

        A ValueError tells a name or a label value that cannot be, a FloatingPointError probabilities that are no
        numbers: labels of such scores are all of one class, and mean nothing.
        """
        if name in self.images:
            raise ValueError(f"two images are named {name!r}; every image counts once, under a name of its own")
        if confidence is not None and (wrong := int((~confidence.isfinite()).sum())):
            raise FloatingPointError(
                f"the scores of {name!r} are no numbers in {wrong} of {confidence.numel()} pixels: has the training of "
                "this checkpoint diverged, or does the image hold values that are no numbers?"
            )
        here = Confusion(self.confusion.num_classes)
        here.update(prediction, truth)
        self.confusion.merge(here)
        matrix = here.matrix.numpy()
        self.images[name] = np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]).astype(np.int32)
        ours, theirs = (maps.cpu().to(torch.uint8).numpy() for maps in (prediction, truth))
        if self.boundary is not None:
            self.boundary += count_boundaries(ours, theirs, self.confusion.num_classes)
        if self.sizes is not None:
            self.sizes.update(ours, theirs)
        if self.calibration is not None and confidence is not None:
            self.calibration.update(ours, confidence.float().cpu().numpy(), theirs)

    def reduce(self) -> Tally:
        """Return the sum over all processes, on each of them: of each image, whichever process counted it."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        parts: list[Tally] = [self] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        total = Tally(self.confusion.num_classes, self.measures)
        for part in parts:
            total.merge(part)
        return total

    def merge(self, other: Tally) -> None:
        """Add the counts of other images."""
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
        stacked = np.stack([self.images[name] for name in self.names()]).astype(np.int64)
        return ImageCounts(*stacked.transpose(1, 0, 2))

    def names(self) -> list[str]:
        """Return the images' names in order."""
        return sorted(self.images)

    def to_dict(self, names: Sequence[str]) -> dict[str, object]:
        """Return "scores" and, as far as they were counted, "sizes" and "calibration"; `names` are the classes'."""
        scores = self.scores().to_dict(names)
        if self.boundary is not None:
            boundary = self.boundary.scores()
            columns = {"boundary_iou": boundary.iou, "boundary_f": boundary.f_score}
            for key, values in columns.items():
                defined = values[np.isfinite(values)]
                scores[key] = float(defined.mean()) if len(defined) else None
                for row, value in zip(scores["classes"], values.tolist(), strict=True):  # type: ignore[call-overload]
                    row[key] = null(value)
        record: dict[str, object] = {"scores": scores}
        if self.sizes is not None:
            record["sizes"] = self.sizes.to_dict(names)
        if self.calibration is not None:
            record["calibration"] = self.calibration.to_dict()
        return record


def image_scores(counts: ImageCounts) -> np.ndarray:
    """Return every image's own mean IoU, nan for an image without labels."""
    scores: np.ndarray = np.where(counts.labelled.sum(1) > 0, counts.miou(), np.nan)
    return scores
