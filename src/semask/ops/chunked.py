"""Layers that act on every token alone: how many at a time, and what is kept of them for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from semask.ops.reference import is_plain
from semask.ops.tiling import PART_TOKENS, is_tiled


def tokenwise(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
    """Run a layer on `PART_TOKENS` tokens at a time where no backward pass follows; the whole map's need more memory.

    That is an MLP's: on the processor it is faster as well, since what is four times as wide stays in the cache.
    """
    if torch.is_grad_enabled() or not is_tiled(x):
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


def lean(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
    """Run a layer that ends in a linear one, and keep its input alone: what leads to the linear one is made again.

    In the backward pass the linear layer itself is not run again. What leads to it should be cheap, a norm or an
    activation, and not random.
    """
    if is_plain() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return layer(x)
    out: Tensor = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
    return out
