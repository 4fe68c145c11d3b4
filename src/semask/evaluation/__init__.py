"""Evaluation of a predictor on a data set: the loop, the counts, and their record."""

from semask.evaluation.counts import Measures, MetricAccumulator
from semask.evaluation.loop import Samples, count_pixels, evaluate_model, process_share

__all__ = ["Measures", "MetricAccumulator", "Samples", "count_pixels", "evaluate_model", "process_share"]
