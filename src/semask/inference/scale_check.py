"""Warnings about tests at another scale than that of training."""

from __future__ import annotations

from semask.ops.geometry import enlarged_size, fit_size
from semask.recipes.recipe import DataRecipe, TestRecipe

Scale = tuple[int, int] | float


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
    own = 1.0 if data.base_scale is not None else data.base_ratio
    ratio = own * max(test.scales)
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
