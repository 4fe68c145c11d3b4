"""Less memory: layers on some tokens at a time, activation checkpointing, and the layout of large maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from semask.ops.linear import WithoutResults
from semask.ops.reference import runs_eagerly, runs_on_cpu
from semask.ops.windows import PART_TOKENS

LARGE = 2**20
"""Numbers in a map from which the weight gradient of a convolution takes longer channels last; see `to_nchw`."""
Result = TypeVar("Result")


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


def checkpoint_pointwise(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
    """Run a layer that ends in a linear one and keep its input alone.

    The backward pass computes what leads to the linear layer again, but not the linear layer itself. What leads to it
    should be cheap, a norm or an activation, and not random.
    """
    if not runs_eagerly() or not torch.is_grad_enabled():
        return layer(x)
    # of the linear layer nothing but its inputs is needed again
    contexts = nullcontext(), WithoutResults()
    return checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


def checkpoint_stage(run: Callable[..., Result], *inputs: object, modules: Sequence[nn.Module]) -> Result:
    """Run a function of `modules` and keep its inputs alone; the backward pass runs it again, from the same seeds.

    BatchNorm counts one run in its running statistics. Without gradients the function simply runs.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(run, *inputs, use_reentrant=False)
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(norms)))


@contextmanager
def _frozen_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch, but leave the running statistics, which the first run has updated."""
    updated = [norm for norm in norms if norm.training]
    before = [(norm.momentum, copy.deepcopy(norm.num_batches_tracked)) for norm in updated]
    for norm in updated:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(updated, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def checkpoint_stages(encoder: nn.Module, stages: Sequence[int], *, flag: str = "--train.checkpoint-stages") -> None:
    """Let the backward pass compute these stages (1 is the finest) again instead of keeping their activations.

    Loss and gradients stay the same, stochastic depth included; a step takes up to a third longer. A plain ViT has one
    stage, whose blocks are computed again one by one.

    Raises:
        ValueError: The encoder has no such stages; the message names them and the `flag`.
    """
    count = int(getattr(encoder, "num_checkpointable", 0))
    if stages and not count:
        raise ValueError(
            f"{type(encoder).__name__} exchanges maps between its stages, none of which can be checkpointed alone; "
            f"use {flag} without a number, or choose another backbone"
        )
    if any(not 1 <= stage <= count for stage in stages):
        there = "1 … 4, finest first" if count > 1 else "1 alone, all of a plain ViT"
        raise ValueError(
            f"the stages that can be checkpointed are {there}; got {' '.join(map(str, stages))}; use "
            f"{flag} {' '.join(str(stage + 1) for stage in range(count))}"
        )
    encoder.checkpointed_stages = frozenset(stages)  # type: ignore[assignment]


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
