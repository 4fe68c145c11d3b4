"""How scores are made: a predictor turns images (b 3 H W) into scores (b k H W), and predictors compose.

    multi_scale(sliding(whole(model), window=…, stride=…), box=…, ratios=…, flip=True)

Predictors give logits, except `multi_scale`, whose mean is over softmax maps; either way the best class is the arg max.
They record gradients if the caller lets them: wrap calls in `torch.inference_mode()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from semask.geometry import fit_size, window_starts
from semask.layers.pyramid import resize
from semask.recipes.recipe import DataRecipe, TestRecipe

Predictor = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b k H W"]]


@runtime_checkable
class Model(Protocol):
    """What predictors ask of a model."""

    def scores(self, images: Float[Tensor, "b 3 H W"], /) -> Float[Tensor, "b k H W"]:
        """Return class scores at the images' size."""

    def prior_scores(self, images: Float[Tensor, "b 3 H W"], /) -> Float[Tensor, "b k H W"]:
        """Return the semantic prior at the images' size; a ValueError where there is none."""


def whole(model: Model) -> Predictor:
    """Score the whole image in one pass."""
    return model.scores


def sliding(
    predictor: Predictor, *, window: tuple[int, int], stride: tuple[int, int], batch_size: int = 1
) -> Predictor:
    """Score windows (height, width) [px] every `stride` pixels and average the logits where they overlap.

    The last window of an axis ends at the border; an axis shorter than the window is taken whole. `batch_size` windows
    go through the predictor at once.

    Source: SeMask-FPN's slide mode (mmsegmentation).
    """
    if min(window) < 1 or min(stride) < 1:
        raise ValueError(f"window and stride must be at least 1 pixel, got window {window} and stride {stride}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride} leaves gaps between windows of {window}; give a stride no larger than the window"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size counts windows per pass and must be at least 1, got {batch_size}")

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        height, width = images.shape[-2:]
        tall, wide = min(window[0], height), min(window[1], width)
        rows, columns = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
        starts = [(y, x) for y in rows for x in columns]
        total: Tensor | None = None
        passes = images.new_zeros(height, width)
        for first in range(0, len(starts), batch_size):
            group = starts[first : first + batch_size]
            scores = predictor(torch.cat([images[..., y : y + tall, x : x + wide] for y, x in group]))
            if total is None:
                total = scores.new_zeros(len(images), scores.shape[1], height, width)
            parts = scores.reshape(len(group), len(images), *scores.shape[1:])
            for (y, x), part in zip(group, parts, strict=True):
                total[..., y : y + tall, x : x + wide] += part
                passes[y : y + tall, x : x + wide] += 1
        assert total is not None  # window_starts never returns an empty list
        return total / passes

    return predict


def rescaled(predictor: Predictor, *, box: tuple[int, int] | None = None, ratio: float = 1.0) -> Predictor:
    """Score the image at another size, aspect ratio kept, and bring the scores back to its own.

    `box` is (long, short) [px], None the image's own size; `ratio` scales it. Both ways bilinear without antialiasing.

    Source: SeMask-FPN's test pipeline: logits → network input's size → original size.
    """
    if ratio <= 0 or (box is not None and min(box) < 1):
        raise ValueError(f"an image cannot be fitted into box {box} at ratio {ratio}; both must be positive")

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        height, width = images.shape[-2:]
        size = fit_size(height, width, box or (height, width), ratio)
        if size == (height, width):
            return predictor(images)
        return resize(predictor(resize(images, size)), (height, width))

    return predict


def multi_scale(
    predictor: Predictor, *, box: tuple[int, int] | None = None, ratios: Sequence[float], flip: bool = False
) -> Predictor:
    """Average class probabilities over `ratios` of the box and, with `flip`, over mirrored images.

    Source: SeMask-FPN's multi-scale test: logits → network input's size → original size → softmax → un-flip → mean.
    """
    if not ratios:
        raise ValueError("multi_scale needs at least one ratio, for example (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)")
    predictors = [rescaled(predictor, box=box, ratio=ratio) for ratio in ratios]

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        total: Tensor | None = None
        for scale in predictors:
            for mirrored in (False, True) if flip else (False,):
                scores = scale(images.flip(-1) if mirrored else images).softmax(1)
                scores = scores.flip(-1) if mirrored else scores
                total = scores if total is None else total + scores
        assert total is not None
        return total / (len(predictors) * (2 if flip else 1))

    return predict


def build_predictor(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Compose the predictor that a recipe's evaluation asks for.

    One scale without flip gives logits; several scales, or flip, give mean probabilities.
    """
    predictor = whole(model)
    if test.mode == "sliding":
        predictor = sliding(predictor, window=test.window, stride=test.stride, batch_size=test.batch_size)
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    if len(ratios) == 1 and not test.flip:
        return rescaled(predictor, box=data.base_scale, ratio=ratios[0])
    return multi_scale(predictor, box=data.base_scale, ratios=ratios, flip=test.flip)


def build_prior(model: Model, data: DataRecipe) -> Predictor:
    """Return the predictor of the semantic prior, in one pass at the recipe's base scale."""
    return rescaled(model.prior_scores, box=data.base_scale, ratio=_base_ratio(data))


def _base_ratio(data: DataRecipe) -> float:
    return data.base_ratio if data.base_scale is None else 1.0
