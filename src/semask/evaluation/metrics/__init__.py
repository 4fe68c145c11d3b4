"""Metrics of label maps: sums over a data set, which neither order, nor batches, nor processes change."""

from semask.evaluation.metrics.confusion import Confusion, Scores

__all__ = ["Confusion", "Scores"]
