"""Cross-entropy of resized logits, a tile at a time: scores at the labels' size are never held."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask.ops.autocast import without_autocast
from semask.ops.bilinear import Span, spans
from semask.ops.reference import is_plain
from semask.ops.resize import resize
from semask.structures import IGNORE

TILE = 2**20
"""The most scores in a tile, so that what is done to it finds it in a processor's cache: 4 MiB in float32."""
TILE_ELSEWHERE = 2**25
"""The same on accelerators, which want much to do at once: 128 MiB in float32."""
SIDE = 64
"""Of a tile on a processor [px], unless classes are few: what interpolation costs a pixel grows with it."""


def resized_cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b H W"],
    weights: Float[Tensor, "b H W"],
    *,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """Resize logits bilinearly to the labels and return their cross-entropy, summed with these weights.

    Labels that are `IGNORE` add nothing, whatever their weight. Only the logits get a gradient, and it is made together
    with the value, a tile of the image at a time: no more than a few MiB beside logits, gradient and labels are needed.
    The gradient cannot be differentiated again.
    """
    if is_plain():
        return (_plain_losses(logits, labels, align_corners) * weights).sum()
    # Interpolation by products of matrices is not to be rounded to bfloat16, which torch's own is not either.
    with without_autocast(logits.device):
        total: Tensor = _Resized.apply(logits, labels, weights, align_corners)
    return total


def pixel_losses(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b H W"], *, align_corners: bool = False
) -> Float[Tensor, "b H W"]:
    """Return the cross-entropy of every pixel, 0 where there is no label, without a gradient."""
    with torch.no_grad(), without_autocast(logits.device):
        if is_plain():
            return _plain_losses(logits, labels, align_corners)
        losses = torch.zeros(labels.shape, dtype=logits.dtype, device=logits.device)
        for tile in _tiles(logits, labels, align_corners):
            true, valid = _true(labels[tile.place])
            losses[tile.place] = -tile.spread(logits).log_softmax(0).gather(0, true)[0] * valid
        return losses


def _plain_losses(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b H W"], align_corners: bool
) -> Float[Tensor, "b H W"]:
    """Return the cross-entropy of every pixel as one would write it first: all scores are there at full size, twice."""
    scores = resize(logits, (labels.shape[-2], labels.shape[-1]), align_corners=align_corners)
    # uint8 labels are fine for storage; cross-entropy wants int64
    return F.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")


class _Resized(torch.autograd.Function):
    """The sum, with its gradient ready when it is asked for."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool) -> Tensor:
        """Make value and gradient in one walk."""
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        sums = []
        for tile in _tiles(logits, labels, align_corners):
            scores = tile.spread(logits).log_softmax(0)
            true, valid = _true(labels[tile.place])
            shares = weights[tile.place] * valid
            sums.append(-(scores.gather(0, true)[0] * shares).sum())
            if gradient is not None:
                # p(k) - [k is true], in place of the scores
                slope = scores.exp_().scatter_add_(0, true, scores.new_full((), -1.0).expand(true.shape)).mul_(shares)
                tile.gather(slope, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None, None


class _Tile(NamedTuple):
    """A tile of an image, and how its rows and columns are made of cells of the logits."""

    image: int
    rows: Span
    columns: Span

    @property
    def place(self) -> tuple[int, slice, slice]:
        """Where its pixels lie in labels (b H W)."""
        return self.image, slice(self.rows.first, self.rows.last), slice(self.columns.first, self.columns.last)

    @property
    def cells(self) -> tuple[int, slice, slice, slice]:
        """Where its cells lie in logits (b k h w)."""
        rows, columns = (slice(span.top, span.bottom) for span in (self.rows, self.columns))
        return self.image, slice(None), rows, columns

    def spread(self, logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "k m n"]:
        """Return the scores of its pixels."""
        return self.rows.spread(self.columns.spread(logits[self.cells].contiguous(), -1), -2)

    def gather(self, slopes: Float[Tensor, "k m n"], gradient: Float[Tensor, "b k h w"]) -> None:
        """Add to the gradient of the logits what that of its pixels makes of it."""
        gradient[self.cells] += self.columns.gather(self.rows.gather(slopes, -2), -1)


def _tiles(logits: Tensor, labels: Tensor, align_corners: bool) -> Iterator[_Tile]:
    """Cut all images into tiles."""
    (height, width), (classes, *cells), device = labels.shape[-2:], logits.shape[1:], logits.device
    numbers, side = (TILE, SIDE) if device.type == "cpu" else (TILE_ELSEWHERE, max(height, width))
    side = max(side, math.isqrt(numbers // 4 // classes))
    wide = min(width, side)
    tall = min(height, max(1, numbers // (wide * classes)), side)
    axis = partial(spans, align_corners=align_corners, dtype=logits.dtype, device=device)
    rows, columns = axis(cells[0], height, tall), axis(cells[1], width, wide)
    return itertools.starmap(_Tile, itertools.product(range(len(labels)), rows, columns))


def _true(labels: Integer[Tensor, "m n"]) -> tuple[Integer[Tensor, "1 m n"], Tensor]:
    """Return the true classes, 0 where there is none, and where there is one."""
    valid = labels != IGNORE
    return (labels.long() * valid)[None], valid
