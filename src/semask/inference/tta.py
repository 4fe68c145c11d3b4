"""Test-time scaling and augmentation: scores of resized and flipped images, and their mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from semask.inference.predictor import Images, Pipeline, Scorer, predictor_of
from semask.inference.regions import RegionImage
from semask.ops.lazy_scores import UNDECIDED, HorizontalFlip, LazyScores, Reader, Resized, read_pixelwise
from semask.ops.resize import enlarged_size, fit_size, resize, to_float
from semask.structures import Predictor

Sized = Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"] | RegionImage
"""Images of another size."""
MAX_ENLARGED_PIXELS = 64_000_000
"""No image is enlarged beyond this: a ViT's scores of 150 classes take 38 GB there."""


def rescaled(
    source: Predictor | Scorer,
    *,
    box: tuple[int, int] | None = None,
    ratio: float = 1.0,
    enlarge_to: int | None = None,
    antialias: bool = False,
    memory_budget: float | None = None,
) -> Pipeline:
    """Score the image at another size, aspect ratio kept, and bring the scores back to its own.

    `box` is (long, short) [px], None the image's own size; `ratio` scales it. Then an image whose short side is less
    than `enlarge_to` [px] is enlarged until it has that, so that it fills a window, up to `MAX_ENLARGED_PIXELS`.
    Scores go straight to the original size. All bilinear; `antialias` smooths images that are made smaller, as Pillow
    does. `memory_budget` is that of `Pipeline`.

    Source: SeMask-FPN's test pipeline: logits → network input's size → original size. Enlarging: Segmenter's authors'
    code. Antialiasing: detectron2, which resizes by Pillow.
    """
    if ratio <= 0 or (box is not None and min(box) < 1):
        raise ValueError(f"an image cannot be fitted into box {box} at ratio {ratio}; both must be positive")
    if enlarge_to is not None and enlarge_to < 1:
        raise ValueError(f"images are enlarged to the side of a window, at least 1 pixel; got {enlarge_to}")
    predictor = predictor_of(source)

    def lazy_scores(images: Images) -> LazyScores:
        height, width = images.shape[-2:]
        # fit the image into the box, and enlarge it to fill a window
        shown = _resized(images, fit_size(height, width, box or (height, width), ratio), antialias=antialias)
        tall, wide = shown.shape[-2:]
        size = enlarged_size(tall, wide, enlarge_to or 1)
        if size != (tall, wide) and math.prod(size) > MAX_ENLARGED_PIXELS:
            raise ValueError(
                f"an image of {tall}×{wide} px would be enlarged to {size[0]}×{size[1]} px to fill windows of "
                f"{enlarge_to} px; the limit is {MAX_ENLARGED_PIXELS / 1e6:g} megapixels. Crop the image, take it "
                "whole (--test.mode whole), or do not enlarge it (--test.enlarge false)."
            )
        shown = _resized(shown, size)
        # scores back to the image's size
        scores = predictor.lazy_scores(shown)
        return scores if scores.shape[2:] == (height, width) else Resized(scores, (height, width))

    return Pipeline(lazy_scores, scores_are_logits=predictor.scores_are_logits, memory_budget=memory_budget)


def tta(
    source: Predictor | Scorer,
    *,
    box: tuple[int, int] | None = None,
    ratios: Sequence[float],
    flip: bool = False,
    enlarge_to: int | None = None,
    antialias: bool = False,
    memory_budget: float | None = None,
) -> Pipeline:
    """Average class probabilities over `ratios` of the box and, with `flip`, over flipped images: at test time.

    Scores that are no logits, those of mask classifiers, are averaged as they are. Every version is kept in memory as
    the source gives it; means are computed a block of rows at a time. `box`, `enlarge_to`, `antialias` and
    `memory_budget` are those of `rescaled`.

    Source: Segmenter's authors' code and SeMask-FPN's multi-scale test: logits → original size → un-flip → softmax →
    mean. MaskFormer's: the same without the softmax.

    >>> import semask, torch
    >>> model = semask.build("scenes/semask-micro-fpn")
    >>> predictor = semask.tta(model, ratios=(0.75, 1.0, 1.25), flip=True)
    >>> tuple(predictor.labels(torch.rand(1, 3, 80, 100)).shape)
    (1, 80, 100)

    Raises:
        ValueError: there are no ratios.
    """
    if not ratios:
        raise ValueError("tta needs at least one ratio, for example (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)")
    predictors = [
        rescaled(source, box=box, ratio=ratio, enlarge_to=enlarge_to, antialias=antialias) for ratio in ratios
    ]

    def lazy_scores(images: Images) -> LazyScores:
        # every scale, and its flip
        versions: list[LazyScores] = []
        for predictor in predictors:
            versions.append(predictor.lazy_scores(images))
            if flip:
                versions.append(HorizontalFlip(predictor.lazy_scores(images.flip(-1))))
        return Mean(tuple(versions), softmax=predictors[0].scores_are_logits)

    return Pipeline(lazy_scores, scores_are_logits=False, memory_budget=memory_budget)


class Mean(LazyScores):
    """The mean of several scores of one shape, or, with `softmax`, of the probabilities whose logits they are."""

    def __init__(self, sources: tuple[LazyScores, ...], *, softmax: bool) -> None:
        super().__init__(sources[0])
        self.sources = sources
        self.softmax = softmax

    def rows(self, first: int, last: int) -> Float[Tensor, "b k r W"]:
        return self._mean(source.rows(first, last).permute(0, 2, 3, 1) for source in self.sources).permute(0, 3, 1, 2)

    def certain_argmax(self, first: int, last: int) -> Int16[Tensor, "b r W"]:
        """Return the classes that are best in all sources: they are the best of the mean, too."""
        known, *others = (source.certain_argmax(first, last) for source in self.sources)
        for other in others:
            known = known.where(known == other, UNDECIDED)
        return known

    def reader(self, first: int, last: int) -> Reader:
        readers = [source.reader(first, last) for source in self.sources]
        return functools.partial(read_pixelwise, lambda pixels: self._mean(read(pixels) for read in readers))

    def select(self, image: int) -> LazyScores:
        return Mean(tuple(source.select(image) for source in self.sources), softmax=self.softmax)

    def _mean(self, scores: Iterable[Float[Tensor, "*p k"]]) -> Float[Tensor, "*p k"]:
        shown = (each.float().softmax(-1) if self.softmax else each.float() for each in scores)
        return functools.reduce(torch.add, shown) / len(self.sources)


def _resized(images: Images, size: tuple[int, int], *, antialias: bool = False) -> Sized:
    if size == tuple(images.shape[-2:]):
        return images
    if isinstance(images, RegionImage):
        if antialias and size[0] < images.shape[-2]:
            raise ValueError(
                f"{images.raster.name}: images that are read by region cannot be made smaller with antialiasing; use "
                "--data.base-scale None --data.base-ratio 1, or make the image smaller beforehand"
            )
        return images.resized(size)
    return resize(to_float(images), size, antialias=antialias)
