"""Predictors from recipes, and warnings about tests at another scale than that of training."""

from __future__ import annotations

from typing import Any

from semask.inference.predictor import Pipeline
from semask.inference.regions import whole
from semask.inference.seams import SeamMeter
from semask.inference.sliding import sliding
from semask.inference.tta import rescaled, tta
from semask.ops.resize import enlarged_size, fit_size, to_float
from semask.recipes.bounds import check_numbers
from semask.recipes.recipe import DataRecipe, TestRecipe
from semask.structures import Predictor

Scale = tuple[int, int] | float


def build_predictor(
    model: Predictor, test: TestRecipe, data: DataRecipe, *, meter: SeamMeter | None = None, valid_border: int = 0
) -> Pipeline:
    """Return the predictor of a recipe's evaluation.

    One scale without flip gives the model's scores; several scales, or flip, give mean probabilities or, of a mask
    classifier, mean scores, which are no probabilities unless divided by their sum over the classes. `test.enlarge`
    acts with sliding windows only and enlarges to the larger side of the window, so that every window is full. A model
    of a fixed size takes windows of that size in whole mode too. `meter` and `valid_border` are those of `sliding`.
    """
    check_numbers(test, "test")
    if hasattr(model, "fuse"):  # exported files have been
        model.fuse()
    sliding_windows = test.mode == "sliding"
    if sliding_windows:
        source = _windows(model, test, test.window, test.stride, meter=meter, valid_border=valid_border)
    else:
        source = _any_size(model, model, test)
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    shared = _shared(test, data) | {"enlarge_to": max(test.window) if sliding_windows and test.enlarge else None}
    if len(ratios) == 1 and not test.flip:
        # one version: the model's own scores
        return rescaled(source, ratio=ratios[0], **shared)
    # several versions: their mean
    return tta(source, ratios=ratios, flip=test.flip, **shared)


def build_prior(model: Any, test: TestRecipe, data: DataRecipe) -> Pipeline:
    """Return the predictor of the semantic prior at the recipe's base scale, whatever the test's mode.

    It takes one pass; a model of a fixed size takes windows.
    """
    source = _any_size(Pipeline(lambda images: model.lazy_prior(to_float(whole(images)))), model, test)
    return rescaled(source, ratio=_base_ratio(data), **_shared(test, data))


def _windows(
    source: Predictor, test: TestRecipe, window: tuple[int, int], stride: tuple[int, int], **options: Any
) -> Predictor:
    options |= {name: getattr(test, name) for name in ("batch_size", "blend", "memory_budget")}
    return sliding(source, window=window, stride=stride, **options)


def _any_size(source: Predictor, model: Predictor, test: TestRecipe) -> Predictor:
    """Return the source itself or, for a model of a fixed size, its windows."""
    size: tuple[int, int] | None = getattr(model, "fixed_size", None)
    return source if size is None else _windows(source, test, size, (size[0] * 2 // 3, size[1] * 2 // 3))


def _shared(test: TestRecipe, data: DataRecipe) -> dict[str, Any]:
    return {"box": data.base_scale, "antialias": data.antialias, "memory_budget": test.memory_budget}


def _base_ratio(data: DataRecipe) -> float:
    return data.base_ratio if data.base_scale is None else 1.0


def read_size(data: DataRecipe, height: int, width: int) -> tuple[int, int]:
    """Size (height, width) [px] at which an image of that size is read by the recipe, scale jitter aside."""
    if data.base_scale is not None:
        return fit_size(height, width, data.base_scale)
    return fit_size(height, width, (height, width), data.base_ratio)


def scale_note(data: DataRecipe, height: int, width: int) -> str | None:
    """Say that images of that size are read at another one; None if they are not."""
    size = read_size(data, height, width)
    if size == (height, width):
        return None
    return f"images of {height}×{width} px are read at {size[0]}×{size[1]} px (×{size[0] / height:.2f})"


def scale_warning(trained: DataRecipe, data: DataRecipe, test: TestRecipe) -> str | None:
    """Return the difference between the scale of training and that of a test as a sentence; None without any.

    `trained` is the data recipe of the training, `data` that of the test. Compared are the base scale, scale jitter
    aside, and, with sliding windows, window and training crop. Several test scales agree if one is that of training.
    """
    # base scales
    learnt, shown = _scale(trained, 1.0), [_scale(data, ratio) for ratio in test.scales]
    differences = []
    if learnt not in shown:
        now = ", ".join(map(_describe, dict.fromkeys(shown)))
        differences.append(f"images were {_describe(learnt)} in training and are {now} now")
    # window and training crop
    if test.mode == "sliding" and test.window != trained.crop:
        window, crop = "×".join(map(str, test.window)), "×".join(map(str, trained.crop))
        differences.append(f"windows are {window} px and training crops were {crop} px")
    if not differences:
        return None
    return f"{'; '.join(differences)}: models, above all ViTs, are usually best at the sizes of their training"


def window_warning(data: DataRecipe, test: TestRecipe, height: int, width: int) -> str | None:
    """Return a warning if windows change nothing for an image of that size [px], which fits into one once resized."""
    tall, wide = test.window
    if test.mode != "sliding" or (height <= tall and width <= wide):
        return None
    # the size of the image at the model
    ratio = _base_ratio(data) * max(test.scales)
    shown = fit_size(height, width, data.base_scale or (height, width), ratio)
    if test.enlarge:
        shown = enlarged_size(*shown, max(test.window))
    if shown[0] > tall or shown[1] > wide:
        return None
    scale = max(height, width) / max(shown) * max(test.scales)
    return (
        f"one window of {tall}×{wide} px holds the whole image: images are {_describe(_scale(data, 1.0))}, as "
        f"in training, and this one of {height}×{width} px becomes {shown[0]}×{shown[1]} px. --test.scales "
        f"{scale:.{0 if scale >= 10 else 1}f} would show it at about its own size, beyond the scale of training"
    )


def _scale(data: DataRecipe, ratio: float) -> Scale:
    """Return the box (long, short) [px] images are fitted into, or the factor on their own size."""
    if data.base_scale is None:
        return round(data.base_ratio * ratio, 6)
    return int(max(data.base_scale) * ratio), int(min(data.base_scale) * ratio)


def _describe(scale: Scale) -> str:
    if isinstance(scale, tuple):
        return f"fitted into {scale[0]}×{scale[1]} px"
    return "of their own size" if scale == 1 else f"of {scale:g} times their own size"
