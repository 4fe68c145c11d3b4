"""Predictors from recipes."""

from __future__ import annotations

from semask.inference.predictor import Model, Predictor
from semask.inference.sliding import sliding
from semask.inference.tta import rescaled, tta
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe, TestRecipe


def build_predictor(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Return the predictor of a recipe's evaluation.

    One scale without flip gives the model's scores; several scales, or flip, give mean probabilities or, of a mask
    classifier, mean scores, which are no probabilities unless divided by their sum over the classes. `test.enlarge`
    acts with sliding windows only and enlarges to the larger side of the window, so that every window is full. A model
    of a fixed size takes windows of that size in whole mode too.
    """
    if test.batch_size < 1:
        raise ValueError(
            f"batch_size counts images or windows of a pass and must be at least 1, got {test.batch_size} "
            "(--test.batch-size)"
        )
    if test.mode == "sliding":
        source: Model | Predictor = _windowed(model, test, window=test.window, stride=test.stride)
    else:
        source = _whole(model, model, test)
    enlarge_to = max(test.window) if test.mode == "sliding" and test.enlarge else None
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    budget = test.memory_budget
    if len(ratios) == 1 and not test.flip:
        # one version: the model's own scores
        return rescaled(
            source,
            box=data.base_scale,
            ratio=ratios[0],
            enlarge_to=enlarge_to,
            antialias=data.antialias,
            memory_budget=budget,
        )
    # several versions: their mean
    return tta(
        source,
        box=data.base_scale,
        ratios=ratios,
        flip=test.flip,
        enlarge_to=enlarge_to,
        antialias=data.antialias,
        memory_budget=budget,
    )


def build_prior(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Return the predictor of the semantic prior at the recipe's base scale, whatever the test's mode.

    It takes one pass; a model of a fixed size takes windows.
    """
    source = _whole(Predictor(lambda images: model.lazy_prior(to_float(images))), model, test)
    return rescaled(
        source,
        box=data.base_scale,
        ratio=_base_ratio(data),
        antialias=data.antialias,
        memory_budget=test.memory_budget,
    )


def _windowed(
    source: Model | Predictor, test: TestRecipe, *, window: tuple[int, int], stride: tuple[int, int]
) -> Predictor:
    return sliding(
        source,
        window=window,
        stride=stride,
        batch_size=test.batch_size,
        blend=test.blend,
        memory_budget=test.memory_budget,
    )


def _whole(source: Model | Predictor, model: Model, test: TestRecipe) -> Model | Predictor:
    """Return a predictor for images of any size: the source itself or, for a model of a fixed size, its windows."""
    size: tuple[int, int] | None = getattr(model, "fixed_size", None)
    if size is None:
        return source
    return _windowed(source, test, window=size, stride=(size[0] * 2 // 3, size[1] * 2 // 3))


def _base_ratio(data: DataRecipe) -> float:
    return data.base_ratio if data.base_scale is None else 1.0
