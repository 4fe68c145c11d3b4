"""Calibration: confidence against accuracy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from semask.evaluation.metrics.confusion import null, ratio
from semask.structures import IGNORE

BINS = 15
UNITS = 2**24


class Calibration:
    """Pixels by the probability of their predicted class, in bins of equal width (low, high], the first from 0 on.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599) §2, over all labelled pixels.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 1:
            raise ValueError(f"a reliability diagram needs at least 1 bin, got {bins}")
        self.pixels: Int64[np.ndarray, " bins"] = np.zeros(bins, np.int64)
        self.correct, self.confidence = np.zeros_like(self.pixels), np.zeros_like(self.pixels)
        """`confidence` is summed in units of 2⁻²⁴: sums of whole numbers do not depend on their order."""

    def update(
        self,
        prediction: UInt8[np.ndarray, "H W"],
        confidence: Float32[np.ndarray, "H W"],
        truth: UInt8[np.ndarray, "H W"],
    ) -> None:
        """Count one image; pixels of truth `IGNORE` take no part."""
        valid = truth != IGNORE
        probability = confidence[valid].astype(np.float64)
        count = len(self.pixels)
        # bin i holds (i / count, (i + 1) / count]
        index = np.clip(np.ceil(probability * count).astype(np.intp) - 1, 0, count - 1)
        self.pixels += np.bincount(index, minlength=count)
        self.correct += np.bincount(index[(prediction == truth)[valid]], minlength=count)
        # Exact in float64 up to 2⁵³ units: half a billion pixels of one image.
        units = np.bincount(index, weights=np.round(probability * UNITS), minlength=count)
        self.confidence += units.astype(np.int64)

    def merge(self, other: Calibration) -> None:
        """Add the counts of other images, in as many bins."""
        if len(other.pixels) != len(self.pixels):
            raise ValueError(f"{len(other.pixels)} bins cannot be added to {len(self.pixels)}")
        self.pixels += other.pixels
        self.correct += other.correct
        self.confidence += other.confidence

    def error(self) -> float:
        """Return the expected calibration error: mean |accuracy - confidence|, weighed by pixels; nan without any."""
        total = self.pixels.sum()
        return float(np.abs(self.correct - self.confidence / UNITS).sum() / total) if total else float("nan")

    def to_dict(self) -> dict[str, object]:
        """Return the error and the bins as JSON values."""
        edges = np.linspace(0, 1, len(self.pixels) + 1)
        confidence, accuracy = ratio(self.confidence / UNITS, self.pixels), ratio(self.correct, self.pixels)
        columns = (column.tolist() for column in (edges[:-1], edges[1:], confidence, accuracy, self.pixels))
        bins = [
            {"low": low, "high": high, "confidence": null(mean), "accuracy": null(share), "pixels": pixels}
            for low, high, mean, share, pixels in zip(*columns, strict=True)
        ]
        return {"ece": null(self.error()), "bins": bins}
