"""Token-wise layers on a bounded number of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from semask.ops.reference import runs_on_cpu
from semask.ops.tiling import PART_TOKENS


def apply_chunked(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
    """Run a layer that acts on every token alone, without gradients on `PART_TOKENS` tokens at a time.

    The hidden tokens of an MLP, four times as wide, then take little memory, and on the CPU they stay in the cache.
    """
    if torch.is_grad_enabled() or not runs_on_cpu(x):
        return layer(x)
    first, *others = x.flatten(0, -2).split(PART_TOKENS)
    made = layer(first)
    if not others:
        return made.view(*x.shape[:-1], -1)
    out = made.new_empty(*x.shape[:-1], made.shape[-1])
    here, *there = out.flatten(0, -2).split(PART_TOKENS)
    here.copy_(made)
    for part, place in zip(others, there, strict=True):
        place.copy_(layer(part))
    return out
