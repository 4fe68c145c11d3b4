"""Activation checkpointing: activations that the backward pass computes again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from semask.ops.reference import runs_eagerly

Result = TypeVar("Result")


def checkpoint_pointwise(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
    """Run a layer that ends in a linear one and keep its input alone.

    The backward pass computes what leads to the linear layer again, but not the linear layer itself. What leads to it
    should be cheap, a norm or an activation, and not random.
    """
    if not runs_eagerly() or not torch.is_grad_enabled():
        return layer(x)
    out: Tensor = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
    return out


def checkpoint_stage(run: Callable[..., Result], *inputs: object, modules: Sequence[nn.Module]) -> Result:
    """Run a function of `modules` and keep its inputs alone; the backward pass runs it again, from the same seeds.

    BatchNorm counts one run in its running statistics. Without gradients the function simply runs.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(run, *inputs, use_reentrant=False)
    # the second run must not count
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), _frozen_statistics(norms)

    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _frozen_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch, but leave the running statistics, which the first run has updated."""
    updated = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms if norm.training]
    before = [None if count is None else count.clone() for *_, count in updated]
    for norm, *_ in updated:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, count), old in zip(updated, before, strict=True):
            norm.momentum = momentum
            if count is not None and old is not None:
                count.copy_(old)
