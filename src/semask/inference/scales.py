"""Images at other sizes than their own, and the mean over several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from semask.bands import Bands, Held, Resized, walk
from semask.geometry import enlarged_size, fit_size
from semask.inference.predictor import Model, Predictor, Scorer, place, predictor_of
from semask.resample import resize

MAX_ENLARGED_PIXELS = 64_000_000
"""No image is enlarged beyond this: a ViT's scores of 150 classes take 38 GB there."""


def rescaled(
    source: Model | Predictor | Scorer,
    *,
    box: tuple[int, int] | None = None,
    ratio: float = 1.0,
    enlarge_to: int | None = None,
    antialias: bool = False,
    memory_budget: float | None = None,
) -> Predictor:
    """Score the image at another size, aspect ratio kept, and bring the scores back to its own.

    `box` is (long, short) [px], None the image's own size; `ratio` scales it. Then an image whose short side is less
    than `enlarge_to` [px] is enlarged until it has that, so that it fills a window; a ValueError refuses to go beyond
    `MAX_ENLARGED_PIXELS`. Scores go straight to the original size. All bilinear; `antialias` smooths images that are
    made smaller, as Pillow does. `memory_budget` is that of `Predictor`.

    Source: SeMask-FPN's test pipeline: logits → network input's size → original size. Enlarging: Segmenter's authors'
    code. Antialiasing: detectron2, which resizes by Pillow.
    """
    if ratio <= 0 or (box is not None and min(box) < 1):
        raise ValueError(f"an image cannot be fitted into box {box} at ratio {ratio}; both must be positive")
    if enlarge_to is not None and enlarge_to < 1:
        raise ValueError(f"images are enlarged to the side of a window, at least 1 pixel; got {enlarge_to}")
    predictor = predictor_of(source)

    def bands(images: Float[Tensor, "b c H W"]) -> Bands:
        height, width = images.shape[-2:]
        seen = resize(images, fit_size(height, width, box or (height, width), ratio), antialias=antialias)
        if enlarge_to is not None:
            seen = _enlarge(seen, enlarge_to)
        return Resized(predictor.bands(seen), (height, width))

    return Predictor(bands, logits=predictor.logits, memory_budget=memory_budget)


def tta(
    source: Model | Predictor | Scorer,
    *,
    box: tuple[int, int] | None = None,
    ratios: Sequence[float],
    flip: bool = False,
    enlarge_to: int | None = None,
    antialias: bool = False,
    memory_budget: float | None = None,
) -> Predictor:
    """Average class probabilities over `ratios` of the box and, with `flip`, over mirrored images: at test time.

    Scores that are no logits, those of mask classifiers, are averaged as they are. The sum at the images' own size is
    held, in the processor's memory if it takes more than `memory_budget` [GiB]; `box`, `enlarge_to` and `antialias`
    are those of `rescaled`.

    Source: Segmenter's authors' code and SeMask-FPN's multi-scale test: logits → original size → un-flip → softmax →
    mean. MaskFormer's: the same without the softmax.
    """
    if not ratios:
        raise ValueError("tta needs at least one ratio, for example (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)")
    versions = [
        (rescaled(source, box=box, ratio=ratio, enlarge_to=enlarge_to, antialias=antialias), mirrored)
        for ratio in ratios
        for mirrored in ((False, True) if flip else (False,))
    ]

    def bands(images: Float[Tensor, "b c H W"]) -> Bands:
        total: Tensor | None = None
        for predictor, mirrored in versions:
            version = predictor.bands(images.flip(-1) if mirrored else images)
            for first, last, scores in walk(version):
                if total is None:
                    device = place(version.shape, scores.device, memory_budget)
                    total = torch.zeros(version.shape, dtype=torch.float32, device=device)
                shown = scores.flip(-1) if mirrored else scores
                total[:, :, first:last] += (shown.softmax(1) if predictor.logits else shown).to(total.device)
        assert total is not None  # there is a ratio
        return Held(total.div_(len(versions)))

    return Predictor(bands, logits=False, memory_budget=memory_budget)


def _enlarge(images: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c H W"]:
    height, width = images.shape[-2:]
    size = enlarged_size(height, width, side)
    if size != (height, width) and math.prod(size) > MAX_ENLARGED_PIXELS:
        raise ValueError(
            f"an image of {height}×{width} px would be enlarged to {size[0]}×{size[1]} px to fill windows of {side} "
            f"px; the limit is {MAX_ENLARGED_PIXELS / 1e6:g} megapixels. Crop the image, take it whole (--test.mode "
            "whole), or do not enlarge it (--test.enlarge false)."
        )
    return resize(images, size)
