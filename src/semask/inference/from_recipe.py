"""Predictors from recipes."""

from __future__ import annotations

from typing import Any

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
    sliding_windows = test.mode == "sliding"
    source = _windows(model, test, test.window, test.stride) if sliding_windows else _any_size(model, model, test)
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    shared = _shared(test, data) | {"enlarge_to": max(test.window) if sliding_windows and test.enlarge else None}
    if len(ratios) == 1 and not test.flip:
        # one version: the model's own scores
        return rescaled(source, ratio=ratios[0], **shared)
    # several versions: their mean
    return tta(source, ratios=ratios, flip=test.flip, **shared)


def build_prior(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Return the predictor of the semantic prior at the recipe's base scale, whatever the test's mode.

    It takes one pass; a model of a fixed size takes windows.
    """
    source = _any_size(Predictor(lambda images: model.lazy_prior(to_float(images))), model, test)
    return rescaled(source, ratio=_base_ratio(data), **_shared(test, data))


def _windows(
    source: Model | Predictor, test: TestRecipe, window: tuple[int, int], stride: tuple[int, int]
) -> Model | Predictor:
    options: dict[str, Any] = {name: getattr(test, name) for name in ("batch_size", "blend", "memory_budget")}
    return sliding(source, window=window, stride=stride, **options)


def _any_size(source: Model | Predictor, model: Model, test: TestRecipe) -> Model | Predictor:
    """Return the source itself or, for a model of a fixed size, its windows."""
    size: tuple[int, int] | None = getattr(model, "fixed_size", None)
    return source if size is None else _windows(source, test, size, (size[0] * 2 // 3, size[1] * 2 // 3))


def _shared(test: TestRecipe, data: DataRecipe) -> dict[str, Any]:
    return {"box": data.base_scale, "antialias": data.antialias, "memory_budget": test.memory_budget}


def _base_ratio(data: DataRecipe) -> float:
    return data.base_ratio if data.base_scale is None else 1.0
