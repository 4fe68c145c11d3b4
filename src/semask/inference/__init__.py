"""Predictors: images (b c H W) to scores and label maps; they compose.

    tta(sliding(model, window=…, stride=…), box=…, ratios=…, flip=True)

Each takes a model, another predictor or a plain function. A call gives scores (b k H W): the model's, except `tta`,
whose mean is over softmax maps if these are logits; either way the best class is the arg max. `labels` and `labelled`
give label maps without ever holding the scores of a whole image: these are computed, resized and decided in blocks of
rows, labels only where neighbouring pixels of the model's own scores disagree. Windows and the versions of `tta` are
kept as the model gave them, and windows are freed when their rows are done.

A predictor calls a model's methods, which `torch.compile(model)` does not reach: compile its parts in place
(`model.encoder.compile()`, `model.decoder.compile()`).

Predictors record gradients if the caller enables them: wrap calls in `torch.inference_mode()`.
"""

from semask.inference.from_recipe import build_predictor, build_prior
from semask.inference.predictor import Labelled, Pipeline, Scorer, predictor_of
from semask.inference.sliding import Blend, sliding
from semask.inference.tta import rescaled, tta

__all__ = [
    "Blend",
    "Labelled",
    "Pipeline",
    "Scorer",
    "build_predictor",
    "build_prior",
    "predictor_of",
    "rescaled",
    "sliding",
    "tta",
]
