"""How scores are made: a predictor turns images (b 3 H W) into scores (b k H W), and predictors compose.

    tta(sliding(model, window=…, stride=…), box=…, ratios=…, flip=True)

Each takes a model or another predictor. They give the model's scores, except `tta`, whose mean is over softmax maps if
these are logits; either way the best class is the arg max. They record gradients if the caller lets them: wrap calls in
`torch.inference_mode()`.

`memory_budget` [GiB] bounds each tensor of scores of whole images, b·k·H·W numbers of four bytes, that `sliding` sums
and that `rescaled` and `tta` make at the images' own size. What would take more is made in the processor's memory, and
all that follows stays there; None never moves anything. In inference mode `sliding` holds one such tensor at a time,
`rescaled` two (what it resizes and the result), `tta` three (the sum of the versions beside those of the present one).
What a model holds is not counted: neither its activations nor the scores it gives, which it resizes itself to the size
of the image or window that it is given. Windows, or a smaller box, keep these small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from semask.geometry import enlarged_size, fit_size, window_starts
from semask.recipes.recipe import DataRecipe, TestRecipe
from semask.resample import resize

Predictor = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b k H W"]]
Blend = Literal["mean", "hann"]
Crop = tuple[int, slice, slice, slice]
"""What a window is cut out of images (b 3 H W) with: one image, all channels, rows, columns."""

MAX_ENLARGED_PIXELS = 64_000_000
"""No image is enlarged beyond this: scores of 150 classes take 38 GB there."""


@runtime_checkable  # for the tests, which check the types in annotations
class Model(Protocol):
    """What predictors ask of a model."""

    @property
    def size_multiple(self) -> int:
        """Return what the model pads the sides of images to [px]: the patch of a ViT, the stride of a pyramid."""

    @property
    def scores_are_logits(self) -> bool:
        """Return whether the softmax of scores is the probability; mask classifiers' are averaged as they are."""

    def scores(self, images: Float[Tensor, "b 3 H W"], /) -> Float[Tensor, "b k H W"]:
        """Return class scores at the images' size."""

    def prior_scores(self, images: Float[Tensor, "b 3 H W"], /) -> Float[Tensor, "b k H W"]:
        """Return the semantic prior at the images' size; a ValueError where there is none."""


def sliding(
    source: Model | Predictor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 1,
    blend: Blend = "mean",
    memory_budget: float | None = None,
) -> Predictor:
    """Score windows (height, width) [px] every `stride` pixels and average the logits where they overlap.

    The last window of an axis ends at the border; an axis shorter than the window is taken whole. A model's window is
    at least its `size_multiple`: less would be padding for the most part. `batch_size` windows go through at once,
    whichever image they are of. `blend` "hann" trusts a window's middle more than its border: weights sin²(π(i+½)/n)
    along both axes. What `memory_budget` [GiB] bounds stands at the top of this file.

    Source: Segmenter's authors' code and SeMask-FPN's slide mode (mmsegmentation) place the same windows.
    """
    _check_windows(window, stride, smallest=getattr(source, "size_multiple", 1))
    _check_blending(batch_size, blend)
    _check_budget(memory_budget)
    predictor = _predictor(source)

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        height, width = images.shape[-2:]
        tall, wide = min(window[0], height), min(window[1], width)
        rows, columns = window_starts(height, tall, stride[0]), window_starts(width, wide, stride[1])
        down, across = _weights(tall, blend), _weights(wide, blend)
        places = itertools.product(range(len(images)), rows, columns)
        crops = [(image, slice(None), slice(y, y + tall), slice(x, x + wide)) for image, y, x in places]
        total: Tensor | None = None
        for crop, scores in _score(predictor, images, crops, batch_size):
            if total is None:
                shape = (len(images), len(scores), height, width)
                place = _place(shape, scores.device, memory_budget)
                total = torch.zeros(shape, dtype=torch.float32, device=place)
                weights = torch.outer(down, across).to(total)
            total[crop].addcmul_(scores.to(total), weights)
        assert total is not None  # window_starts never returns an empty list
        return total.div_(torch.outer(_summed(down, rows, height), _summed(across, columns, width)).to(total))

    return predict


def rescaled(
    source: Model | Predictor,
    *,
    box: tuple[int, int] | None = None,
    ratio: float = 1.0,
    enlarge_to: int | None = None,
    memory_budget: float | None = None,
) -> Predictor:
    """Score the image at another size, aspect ratio kept, and bring the scores back to its own.

    `box` is (long, short) [px], None the image's own size; `ratio` scales it. Then an image whose short side is less
    than `enlarge_to` [px] is enlarged until it has that, so that it fills a window; a ValueError refuses to go beyond
    `MAX_ENLARGED_PIXELS`. Scores go straight to the original size, in the processor's memory if they take more than
    `memory_budget` [GiB] there. All bilinear without antialiasing.

    Source: SeMask-FPN's test pipeline: logits → network input's size → original size. Enlarging: Segmenter's authors'
    code.
    """
    if ratio <= 0 or (box is not None and min(box) < 1):
        raise ValueError(f"an image cannot be fitted into box {box} at ratio {ratio}; both must be positive")
    if enlarge_to is not None and enlarge_to < 1:
        raise ValueError(f"images are enlarged to the side of a window, at least 1 pixel; got {enlarge_to}")
    _check_budget(memory_budget)
    predictor = _predictor(source)

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        height, width = images.shape[-2:]
        seen = resize(images, fit_size(height, width, box or (height, width), ratio))
        if enlarge_to is not None:
            seen = _enlarge(seen, enlarge_to)
        scores = predictor(seen)
        place = _place((*scores.shape[:2], height, width), scores.device, memory_budget)
        return resize(scores.to(place), (height, width))

    return predict


def tta(
    source: Model | Predictor,
    *,
    box: tuple[int, int] | None = None,
    ratios: Sequence[float],
    flip: bool = False,
    logits: bool = True,
    enlarge_to: int | None = None,
    memory_budget: float | None = None,
) -> Predictor:
    """Average class probabilities over `ratios` of the box and, with `flip`, over mirrored images: at test time.

    `logits` False averages scores as they are, without a softmax: those of mask classifiers. `box`, `enlarge_to` and
    `memory_budget` are those of `rescaled`.

    Source: Segmenter's authors' code and SeMask-FPN's multi-scale test: logits → original size → un-flip → softmax →
    mean. MaskFormer's: the same without the softmax.
    """
    if not ratios:
        raise ValueError("tta needs at least one ratio, for example (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)")
    predictors = [
        rescaled(source, box=box, ratio=ratio, enlarge_to=enlarge_to, memory_budget=memory_budget) for ratio in ratios
    ]

    def version(scale: Predictor, images: Tensor, *, mirrored: bool) -> Tensor:
        scores = _mirrored(scale, images) if mirrored else scale(images)
        return scores.softmax(1) if logits else scores

    def predict(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        total: Tensor | None = None
        for scale in predictors:
            for mirrored in (False, True) if flip else (False,):
                # A version that kept a name here would still be held while the next one is made.
                total = _add(total, version(scale, images, mirrored=mirrored))
        assert total is not None
        return total.div_(len(predictors) * (2 if flip else 1))

    return predict


def build_predictor(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Compose the predictor that a recipe's evaluation asks for.

    One scale without flip gives the model's scores; several scales, or flip, give mean probabilities or, of a mask
    classifier, mean scores, which are no probabilities: divide by their sum over the classes for that. `test.enlarge`
    acts with sliding windows only and enlarges to the larger side of the window, so that every window is full. A model
    of a fixed size sees images through windows of that size in whole mode too.
    """
    enlarge_to = None
    if test.mode == "sliding":
        source: Model | Predictor = _windowed(model, test, window=test.window, stride=test.stride)
        enlarge_to = max(test.window) if test.enlarge else None
    else:
        source = _whole(model, model, test)
    ratios = tuple(_base_ratio(data) * scale for scale in test.scales)
    box, budget = data.base_scale, test.memory_budget
    if len(ratios) == 1 and not test.flip:
        return rescaled(source, box=box, ratio=ratios[0], enlarge_to=enlarge_to, memory_budget=budget)
    return tta(
        source,
        box=box,
        ratios=ratios,
        flip=test.flip,
        logits=model.scores_are_logits,
        enlarge_to=enlarge_to,
        memory_budget=budget,
    )


def build_prior(model: Model, test: TestRecipe, data: DataRecipe) -> Predictor:
    """Return the predictor of the semantic prior at the recipe's base scale, whatever the test's mode.

    It is made in one pass, by a model of a fixed size in windows.
    """
    source = _whole(model.prior_scores, model, test)
    return rescaled(source, box=data.base_scale, ratio=_base_ratio(data), memory_budget=test.memory_budget)


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


def _predictor(source: Model | Predictor) -> Predictor:
    # Not by isinstance, which from Python 3.12 on sees no attributes that a compiled model passes on.
    return source.scores if hasattr(source, "scores") else source


def _check_windows(window: tuple[int, int], stride: tuple[int, int], *, smallest: int) -> None:
    if min(window) < 1 or min(stride) < 1:
        raise ValueError(f"window and stride must be at least 1 pixel, got window {window} and stride {stride}")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride} leaves gaps between windows of {window}; give a stride no larger than the window "
            "(--test.window, --test.stride)"
        )
    if min(window) < smallest:
        raise ValueError(
            f"a window of {window} is smaller than what this model pads images to, {smallest}×{smallest} px (a ViT's "
            f"patch, a pyramid's stride); give a window of at least that, best of the size of the training crop"
        )


def _check_blending(batch_size: int, blend: str) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size counts windows per pass and must be at least 1, got {batch_size}")
    if blend not in get_args(Blend):
        raise ValueError(f"overlapping windows are blended by {' or '.join(get_args(Blend))}, got {blend!r}")


def _check_budget(memory_budget: float | None) -> None:
    if memory_budget is not None and not memory_budget > 0:
        raise ValueError(
            f"memory_budget must be more than 0 GiB, got {memory_budget}; None leaves scores on the model's device"
        )


def _score(
    predictor: Predictor, images: Float[Tensor, "b 3 H W"], crops: Sequence[Crop], batch_size: int
) -> Iterator[tuple[Crop, Float[Tensor, "k h w"]]]:
    """Score crops of one size, `batch_size` at a time."""
    for first in range(0, len(crops), batch_size):
        group = crops[first : first + batch_size]
        yield from zip(group, predictor(torch.stack([images[crop] for crop in group])), strict=True)


def _weights(length: int, blend: Blend) -> Float[Tensor, " n"]:
    """Return the weights of a window along one axis, all of them positive."""
    if blend == "mean":
        return torch.ones(length, dtype=torch.float64)
    return torch.sin(math.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length) ** 2


def _summed(weights: Float[Tensor, " n"], starts: Sequence[int], size: int) -> Float[Tensor, " s"]:
    """Return the weights of all windows along one axis, summed where they overlap."""
    total = weights.new_zeros(size)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total


def _place(shape: tuple[int, ...], device: torch.device, budget: float | None) -> torch.device:
    """Return where scores of this shape are made: on `device` unless they take more than the budget."""
    needed = math.prod(shape) * torch.float32.itemsize / 2**30
    return torch.device("cpu") if budget is not None and needed > budget else device


def _mirrored(predictor: Predictor, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
    return predictor(images.flip(-1)).flip(-1)


def _add(total: Float[Tensor, "b k H W"] | None, part: Float[Tensor, "b k H W"]) -> Float[Tensor, "b k H W"]:
    if total is None:
        return part.clone()  # Summed in place, and gradients of a softmax need its result as it was.
    if part.device.type == "cpu":
        # Windows' sums differ in size between versions: those of some may be over the budget, and then all end there.
        total = total.cpu()
    return total.add_(part.to(total.device))


def _enlarge(images: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b 3 H W"]:
    height, width = images.shape[-2:]
    size = enlarged_size(height, width, side)
    if size != (height, width) and math.prod(size) > MAX_ENLARGED_PIXELS:
        raise ValueError(
            f"an image of {height}×{width} px would be enlarged to {size[0]}×{size[1]} px to fill windows of {side} "
            f"px; the limit is {MAX_ENLARGED_PIXELS / 1e6:g} megapixels. Crop the image, take it whole (--test.mode "
            "whole), or do not enlarge it (--test.enlarge false)."
        )
    return resize(images, size)
