"""Between which pixels of a small map those of a large one lie, and weighted sums of such pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor

from semask.resample import resize


class Neighbours(NamedTuple):
    """For every pixel along an axis, the two of another grid that it lies between, and what share each has.

    reach: the first of those pixels, and the one behind the last.
    """

    pixel: Int[Tensor, "n 2"]
    share: Float[Tensor, "n 2"]
    reach: tuple[int, int]

    def between(
        self, position: Integer[Tensor, "m t"], weight: Float[Tensor, "m t"]
    ) -> tuple[Int[Tensor, "m u"], Float[Tensor, "m u"]]:
        """Return weighted pixels as twice as many of the other grid."""
        return self.pixel[position].flatten(1), (self.share[position] * weight[..., None]).flatten(1)


def neighbours(length: int, size: int, first: int = 0, last: int | None = None) -> Neighbours:
    """Return where pixels first … last - 1 of `size` lie among `length`, as `resize` has it, in float64."""
    last = size if last is None else last
    pixels = torch.arange(first, last, dtype=torch.float64)
    position = ((pixels + 0.5) * (length / size) - 0.5).clamp(0, length - 1)
    before = position.int()
    share = (position - before).float()
    # Reckoned once more, since the tensors may lie on another device, or be fakes.
    top, bottom = (int(min(max((pixel + 0.5) * (length / size) - 0.5, 0), length - 1)) for pixel in (first, last - 1))
    return Neighbours(
        torch.stack([before, (before + 1).clamp_max(length - 1)], 1),
        torch.stack([1 - share, share], 1),
        (top, min(bottom + 2, length)),
    )


def classes_last(scores: Float[Tensor, "b k r w"]) -> Float[Tensor, "b r w k"]:
    """Return scores in float32, those of a pixel side by side in memory."""
    scores = scores.float()
    last = scores.permute(0, 2, 3, 1)
    if last.is_contiguous() or scores.device.type != "cpu" or (scores.requires_grad and torch.is_grad_enabled()):
        return last.contiguous()
    found = torch.empty_like(last, memory_format=torch.contiguous_format)
    for image, table in zip(scores, found.flatten(1, 2), strict=True):
        lines = image.permute(1, 2, 0)
        # As a matrix, which torch transposes in blocks: several times faster.
        table.copy_(lines.flatten(0, 1) if lines.is_contiguous() else image.contiguous().flatten(1).t())
    return found


def mix(table: Float[Tensor, "m k"], index: Int[Tensor, "n t"], weights: Float[Tensor, "n t"]) -> Float[Tensor, "n k"]:
    """Return weighted sums of rows of a table: what a bag of embeddings is, and nothing reads rows faster."""
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def corners(down: Neighbours, across: Neighbours, width: int) -> tuple[Int[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Return the four pixels that each of a grid's lies between, counted row by row of `width`, and their shares."""
    # By long rows of corners side by side: operations on rows of four would take as long as what they prepare.
    upper = torch.tensor([True, True, False, False]).repeat(len(across.pixel))
    lines = down.pixel * width
    index = torch.where(upper, lines[:, :1], lines[:, 1:]) + across.pixel.repeat(1, 2).flatten()
    weights = torch.where(upper, down.share[:, :1], down.share[:, 1:]) * across.share.repeat(1, 2).flatten()
    return index.view(-1, 4), weights.view(-1, 4)


def interpolated(source: Float[Tensor, "b k r w"], down: Neighbours, top: int, width: int) -> Float[Tensor, "b k R W"]:
    """Return what `Resized.rows` does by operations that a GPU is good at.

    Not by a product of matrices, which it may be told to round (TF32).
    """
    # Without waiting for the device: what is copied is small, and nobody changes it meanwhile.
    index, share = (part.to(source.device, non_blocking=True) for part in (down.pixel - top, down.share))
    wide = resize(source, (source.shape[-2], width))
    upper, lower = wide[:, :, index[:, 0]], wide[:, :, index[:, 1]]
    return upper * share[:, :1] + lower * share[:, 1:]
