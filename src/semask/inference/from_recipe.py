"""From a recipe's test to its predictor."""

from __future__ import annotations

from semask.inference.predictor import Model, Predictor
from semask.inference.sliding import sliding
from semask.inference.tta import rescaled, tta
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe, TestRecipe


def build_predictor(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Compose the predictor that a recipe's evaluation asks for.

    One scale without flip gives the model's scores; several scales, or flip, give mean probabilities or, of a mask
    classifier, mean scores, which are no probabilities: divide by their sum over the classes for that. `test.enlarge`
    acts with sliding windows only and enlarges to the larger side of the window, so that every window is full. A model
    of a fixed size sees images through windows of that size in whole mode too.
    """
    if test.batch_size < 1:
        raise ValueError(
            f"batch_size counts images or windows of a pass and must be at least 1, got {test.batch_size} "
            "(--test.batch-size)"
        )
    enlarge_to = None
    if test.mode == "sliding":
        source: Model | Predictor = _windowed(model, test, window=test.window, stride=test.stride)
        enlarge_to = max(test.window) if test.enlarge else None
    else:
        source = _whole(model, model, test)
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    box, budget = data.base_scale, test.memory_budget
    if len(ratios) == 1 and not test.flip:
        return rescaled(
            source,
            box=box,
            ratio=ratios[0],
            enlarge_to=enlarge_to,
            antialias=data.antialias,
            memory_budget=budget,
        )
    return tta(
        source,
        box=box,
        ratios=ratios,
        flip=test.flip,
        enlarge_to=enlarge_to,
        antialias=data.antialias,
        memory_budget=budget,
    )


def build_prior(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Return the predictor of the semantic prior at the recipe's base scale, whatever the test's mode.

    It is made in one pass, by a model of a fixed size in windows.
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
    """Return what takes images of any size: the source itself or, of a model of a fixed size, windows of that size."""
    size: tuple[int, int] | None = getattr(model, "fixed_size", None)
    if size is None:
        return source
    return _windowed(source, test, window=size, stride=(size[0] * 2 // 3, size[1] * 2 // 3))


def _base_ratio(data: DataRecipe) -> float:
    return data.base_ratio if data.base_scale is None else 1.0
