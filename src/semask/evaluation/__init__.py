"""Measuring a predictor on a data set: the loop, what it counts, and the record it leaves."""

from semask.evaluation.counts import Measures, Tally
from semask.evaluation.loop import Samples, count_pixels, evaluate_model, process_share

__all__ = ["Measures", "Samples", "Tally", "count_pixels", "evaluate_model", "process_share"]
