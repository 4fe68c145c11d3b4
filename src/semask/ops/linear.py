"""Linear layers on the CPU by the faster of two libraries, forward and backward.

torch computes them by MKL, which takes a slow path on AMD's CPUs: oneDNN needs less than half of the time there.
Its function in torch has no public name, so it is looked for once, and `F.linear` computes what it cannot.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semask.ops.device import cpu_vendor
from semask.ops.reference import runs_on_cpu

SMALLEST = 2**21
"""Multiply-adds from which oneDNN is faster: a call costs it 10 µs more."""
_local = threading.local()


class Activation(NamedTuple):
    """An activation as oneDNN fuses it: its name, its numbers, and the variant of its formula."""

    name: str
    numbers: tuple[float, ...] = ()
    variant: str = ""


NO_ACTIVATION = Activation("none")


@cache
def has_onednn() -> bool:
    """Whether torch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def onednn_is_faster() -> bool:
    """Whether torch would use MKL's slow path otherwise."""
    return has_onednn() and torch.backends.mkl.is_available() and cpu_vendor() == "AuthenticAMD"


def linear(
    x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "*n o"]:
    """Return what `F.linear` returns, to rounding; there are second derivatives."""
    if not pays(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return by_onednn(x, weight, bias)
    # rows, since what a layer returns may be changed in place, and a view made inside may not
    rows: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias, getattr(_local, "skips", False))
    return rows.view(*x.shape[:-1], -1)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this layer, and faster."""
    if not is_plain(x) or x.numel() * len(weight) < SMALLEST:
        return False
    return x.dtype == weight.dtype == torch.float32 and onednn_is_faster()


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = NO_ACTIVATION) -> Tensor:
    """Return activation(x · weightᵀ + bias)."""
    name, numbers, variant = activation
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # it has no fast kernel for others
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [*numbers], variant)
    return out


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is one of the CPU's that no compiler, tracer, autocast or `torch.func` watches."""
    if not runs_on_cpu(x) or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch._C._get_tracing_state() or torch._C._are_functorch_transforms_active())


class WithoutResults(AbstractContextManager[None]):
    """Inside, linear layers keep their inputs for the backward pass and compute nothing: results are not numbers."""

    def __enter__(self) -> None:
        _local.skips = True

    def __exit__(self, *_: object) -> None:
        _local.skips = False


class _Linear(torch.autograd.Function):
    """A linear layer by oneDNN, with the gradients of all its inputs."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, skips: bool) -> Tensor:
        return x.new_empty(len(x), len(weight)) if skips else by_onednn(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        of_x = linear(slope, weight.t()) if wants_x else None
        of_bias = slope.sum(0) if wants_bias else None
        of_weight = None
        if wants_weight:
            # oneDNN is faster where the second factor is the larger
            wide = x.shape[1] > slope.shape[1]
            of_weight = linear(slope.t(), x.t()) if wide else linear(x.t(), slope.t()).t()
        return of_x, of_weight, of_bias, None
