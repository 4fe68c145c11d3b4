"""Making a stage's activations again in the backward pass instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def recompute(encoder: nn.Module, stages: Sequence[int], *, flag: str = "--train.recompute-stages") -> None:
    """Let an encoder make these stages (1 is the finest) again in the backward pass; none lets it keep everything.

    Loss and gradients stay what they are, random depth included; a step takes up to a third longer. A plain ViT has one
    stage, whose blocks are made again one by one. A ValueError names the stages there are, and the `flag` that asks.
    """
    count = int(getattr(encoder, "num_recomputable", 0))
    if stages and not count:
        raise ValueError(
            f"{type(encoder).__name__} exchanges maps between its stages and cannot make one of them again; say "
            f"{flag} with nothing behind it, or choose another backbone"
        )
    if any(not 1 <= stage <= count for stage in stages):
        there = "1 … 4, finest first" if count > 1 else "1 alone, all of a plain ViT"
        raise ValueError(
            f"the stages that can be made again are {there}; got {' '.join(map(str, stages))}; say "
            f"{flag} {' '.join(str(stage + 1) for stage in range(count))}"
        )
    encoder.recomputed = frozenset(stages)  # type: ignore[assignment]


def again(run: Callable[..., Result], *inputs: object, modules: Sequence[nn.Module]) -> Result:
    """Run a function of `modules` and keep its inputs alone; in the backward pass it runs again, from the same seeds.

    Means and variances of BatchNorm are those of one run. Where no backward pass follows it simply runs.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    if torch.compiler.is_compiling():
        return checkpoint(run, *inputs, use_reentrant=False)
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), _untracked(norms)

    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _untracked(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch as before, and let it count for nothing: it has been counted."""
    counted = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms if norm.training]
    before = [None if count is None else count.clone() for *_, count in counted]
    for norm, *_ in counted:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, count), old in zip(counted, before, strict=True):
            norm.momentum = momentum
            if count is not None and old is not None:
                count.copy_(old)
