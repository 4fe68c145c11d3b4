"""How scores and label maps are made: predictors take images (b c H W), and they compose.

    tta(sliding(model, window=…, stride=…), box=…, ratios=…, flip=True)

Each takes a model, another predictor or a plain function. A call gives scores (b k H W): the model's, except `tta`,
whose mean is over softmax maps if these are logits; either way the best class is the arg max. `labels` and `labelled`
give label maps without holding the scores of a whole image: they are made, resized and decided in bands of rows,
labels only where neighbouring pixels of the model's own scores disagree. Windows and the versions of `tta` are kept as
the model gave them, and windows are let go when their rows are done.

A predictor takes a model apart into its methods, which `torch.compile(model)` does not reach: compile its parts in
place (`model.encoder.compile()`, `model.decoder.compile()`).

Predictors record gradients if the caller lets them: wrap calls in `torch.inference_mode()`.
"""

from semask.inference.from_recipe import build_predictor, build_prior
from semask.inference.predictor import Labelled, Model, Predictor, Scorer, predictor_of
from semask.inference.sliding import Blend, sliding
from semask.inference.tta import rescaled, tta

__all__ = [
    "Blend",
    "Labelled",
    "Model",
    "Predictor",
    "Scorer",
    "build_predictor",
    "build_prior",
    "predictor_of",
    "rescaled",
    "sliding",
    "tta",
]
