"""Memory layout: which dimension of a map lies contiguously."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.reference import runs_eagerly

LARGE = 2**20
"""Numbers in a map from which the weight gradient of a convolution takes longer channels last; see `to_nchw`."""


def to_nchw(x: Float[Tensor, "b i h w"], conv: nn.Conv2d) -> Float[Tensor, "b i h w"]:
    """Return the input of a convolution contiguous channel by channel if it is large and the weight is trained.

    Transformers give maps channels last. On the CPU the gradient of a dense kernel larger than 1×1 takes up to twice
    as long that way once the map exceeds the cache, and less time on small maps. Without a backward pass there is
    nothing to gain.
    """
    if not runs_eagerly() or not torch.is_grad_enabled() or x.device.type != "cpu":
        return x
    trained = conv.kernel_size != (1, 1) and conv.groups == 1 and conv.weight.requires_grad
    return x.contiguous() if trained and x.numel() >= LARGE else x


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
