"""Cross-entropy of resized logits, a tile at a time: scores at the labels' size never exist as a whole."""

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

from semask.ops.bilinear import Span, spans
from semask.ops.device import without_autocast
from semask.ops.reference import is_reference
from semask.ops.resize import resize, size_of

TILE = 2**20
"""The most scores in a tile on the CPU, so that all steps find it in the cache: 4 MiB in float32."""
TILE_ON_GPU = 2**25
"""The same on a GPU, which wants much to do at once: 128 MiB in float32."""
SIDE = 64
"""Of a tile on the CPU [px], unless classes are few: the cost of interpolating a pixel grows with it."""


def resized_cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b H W"],
    weights: Float[Tensor, "b H W"],
    *,
    align_corners: bool = False,
    ignore: int = 255,
) -> Float[Tensor, ""]:
    """Resize logits bilinearly to the labels and return their cross-entropy, summed with these weights.

    Pixels labelled `ignore` add nothing, whatever their weight. Only the logits get a gradient. It is computed together
    with the value, a tile of the image at a time, in no more than a few MiB beside logits, gradient and labels. It
    cannot be differentiated again.
    """
    if is_reference():
        return (_whole_losses(logits, labels, align_corners, ignore) * weights).sum()
    # Interpolation by matrix products must not be rounded to bfloat16, as torch's own is not.
    with without_autocast(logits.device):
        total: Tensor = _ResizedCrossEntropy.apply(logits, labels, weights, align_corners, ignore)
    return total


def pixel_losses(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b H W"],
    *,
    align_corners: bool = False,
    ignore: int = 255,
) -> Float[Tensor, "b H W"]:
    """Return the cross-entropy of every pixel, 0 where it is labelled `ignore`, without a gradient."""
    with torch.no_grad(), without_autocast(logits.device):
        if is_reference():
            return _whole_losses(logits, labels, align_corners, ignore)
        losses = torch.zeros(labels.shape, dtype=logits.dtype, device=logits.device)
        for tile in _tiles(logits, labels, align_corners):
            true, valid = _true_classes(labels[tile.pixels], ignore)
            losses[tile.pixels] = -tile.scores(logits).log_softmax(0).gather(0, true)[0] * valid
        return losses


def _whole_losses(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b H W"], align_corners: bool, ignore: int
) -> Float[Tensor, "b H W"]:
    """Return the cross-entropy of every pixel from all scores at full size: the reference form."""
    scores = resize(logits, size_of(labels), align_corners=align_corners)
    return F.cross_entropy(scores, labels.long(), ignore_index=ignore, reduction="none")


class _ResizedCrossEntropy(torch.autograd.Function):
    """The weighted sum, whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool, ignore: int) -> Tensor:
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        sums = []
        for tile in _tiles(logits, labels, align_corners):
            scores = tile.scores(logits).log_softmax(0)
            # − log p(true class), weighted
            true, valid = _true_classes(labels[tile.pixels], ignore)
            shares = weights[tile.pixels] * valid
            sums.append(-(scores.gather(0, true)[0] * shares).sum())
            if gradient is not None:
                # p(k) - [k is true], in place of the scores
                slope = scores.exp_().scatter_add_(0, true, scores.new_full((), -1.0).expand(true.shape)).mul_(shares)
                tile.add_gradient(slope, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None


class _Tile(NamedTuple):
    """A tile of an image, and how its rows and columns are interpolated from cells of the logits.

    pixels: index of its pixels in labels (b H W). cells: index of its cells in logits (b k h w).
    """

    pixels: tuple[int, slice, slice]
    cells: tuple[int, slice, slice, slice]
    rows: Span
    columns: Span

    def scores(self, logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "k m n"]:
        return self.rows.enlarge(self.columns.enlarge(logits[self.cells].contiguous(), -1), -2)

    def add_gradient(self, slopes: Float[Tensor, "k m n"], gradient: Float[Tensor, "b k h w"]) -> None:
        gradient[self.cells] += self.columns.enlarge_backward(self.rows.enlarge_backward(slopes, -2), -1)


def _tiles(logits: Tensor, labels: Tensor, align_corners: bool) -> Iterator[_Tile]:
    """Cut all images into tiles."""
    (height, width), (classes, *cells), device = labels.shape[-2:], logits.shape[1:], logits.device
    numbers, side = (TILE, SIDE) if device.type == "cpu" else (TILE_ON_GPU, max(height, width))
    # squares where classes are few, else as wide as `side`
    side = max(side, math.isqrt(numbers // 4 // classes))
    wide = min(width, side)
    tall = min(height, max(1, numbers // (wide * classes)), side)
    axis = partial(spans, align_corners=align_corners, dtype=logits.dtype, device=device)
    rows, columns = axis(cells[0], height, tall), axis(cells[1], width, wide)
    for image, row, column in itertools.product(range(len(labels)), rows, columns):
        pixels = (image, slice(row.first, row.last), slice(column.first, column.last))
        yield _Tile(
            pixels, (image, slice(None), slice(row.top, row.bottom), slice(column.top, column.bottom)), row, column
        )


def _true_classes(labels: Integer[Tensor, "m n"], ignore: int) -> tuple[Integer[Tensor, "1 m n"], Tensor]:
    """Return the true classes, 0 where there is none, and where there is one."""
    valid = labels != ignore
    return (labels.long() * valid)[None], valid
