"""What a model costs: parameters and multiply-adds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semask.models.model import SegmentationModel
from semask.ops.reference import reference_mode


def parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Return the multiply-adds for one image of that size [px] as the papers count them.

    Counted are the modules in `COSTS`. Attention's products, softmax, GELU, BatchNorm, additions and functional
    interpolation are not: those counters never saw them. Nor did they see what mask classification adds beside such
    modules: the points of deformable attention, FaPN's deformable convolution (the one that makes its offsets counts),
    and the products of queries with pixels. On the meta device, counting costs no memory and little time.

    Source: SeMask Table 2 and Segmenter, both by mmcv 1.3's hooks.
    """
    with _counting(model) as counts:
        _run(model, height, width)
    return sum(counts)


def all_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Return the multiply-adds of all matrix products and convolutions for one image, attention's included.

    Interpolation is not counted, be it of whole maps or at the points that deformable layers look at.
    """
    with _flop_counter() as counter:
        _run(model, height, width)
    return int(counter.get_total_flops()) // 2


class Cost(NamedTuple):
    """What `parameters`, `multiply_adds` and `all_multiply_adds` return."""

    parameters: int
    multiply_adds: int
    all_multiply_adds: int


def measure(model: nn.Module, height: int, width: int) -> Cost:
    """Return all three counts, for one image of that size [px], after running the model once."""
    with _counting(model) as counts, _flop_counter() as counter:
        _run(model, height, width)
    return Cost(parameters(model), sum(counts), int(counter.get_total_flops()) // 2)


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[int]]:
    """Collect the cost of every module that runs inside."""
    counts: list[int] = []

    def count(cost: Callable[[Any, Tensor, Tensor], int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: counts.append(cost(module, inputs[0], output))

    handles = [
        module.register_forward_hook(count(cost))
        for module in model.modules()
        for kind, cost in COSTS.items()
        if isinstance(module, kind)
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _flop_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformed})


def _run(model: nn.Module, height: int, width: int) -> None:
    device = next(model.parameters()).device
    # What only training needs is not part of the cost.
    predict = model.decode_main if isinstance(model, SegmentationModel) else model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # FlopCounterMode hooks into the graph of parameters that are a module's input
    try:
        # The papers' models pad windows and compute what the padding becomes.
        with torch.no_grad(), reference_mode():
            channels = len(model.mean) if isinstance(model, SegmentationModel) else 3
            predict(torch.zeros(1, channels, height, width, device=device))
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _convolution(module: nn.Conv2d, _: Tensor, output: Tensor) -> int:
    per_output = module.weight[0].numel() + (module.bias is not None)
    return output.numel() * per_output


def _linear(_: nn.Linear, inputs: Tensor, output: Tensor) -> int:
    return inputs.numel() * output.shape[-1]


def _norm(module: nn.LayerNorm | nn.GroupNorm, inputs: Tensor, _: Tensor) -> int:
    return inputs.numel() * (1 if module.weight is None else 2)


def _deformed(_: torch.Size, weight: torch.Size, *__: Any, out_shape: torch.Size, **___: Any) -> int:
    """Return the operations of a deformable convolution, two per multiply-add, from the shapes of what it reads."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _per_output(_: nn.Module, __: Tensor, output: Tensor) -> int:
    return output.numel()


COSTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.LayerNorm: _norm,
    nn.GroupNorm: _norm,
    nn.ReLU: _per_output,
    nn.ReLU6: _per_output,
    nn.Upsample: _per_output,
}
"""Multiply-adds of a module from (module, its first input, its output)."""


def cost_of(module: nn.Module, size: tuple[int, int]) -> Cost:
    """Return the cost for images of a size (height, width) [px]; the module is neither run nor changed."""
    twin = meta_twin(module).eval()
    return measure(twin, *size)


def meta_twin(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, made without a copy of the weights."""
    values = [*module.parameters(), *module.buffers()]
    stands_for = {id(value): value.to("meta") for value in values}
    for value in module.parameters():
        stands_for[id(value)] = nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)
    return copy.deepcopy(module, dict(stands_for))
