"""What a model costs: parameters and multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semask.models.meta import meta_twin
from semask.models.model import SegmentationModel
from semask.ops.reference import reference_mode

COSTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    nn.Conv2d: lambda conv, _, output: output.numel() * (conv.weight[0].numel() + (conv.bias is not None)),
    nn.Linear: lambda _, inputs, output: inputs.numel() * output.shape[-1],
    nn.LayerNorm: lambda norm, inputs, _: inputs.numel() * (1 if norm.weight is None else 2),
    nn.GroupNorm: lambda norm, inputs, _: inputs.numel() * (1 if norm.weight is None else 2),
    nn.ReLU: lambda _, __, output: output.numel(),
    nn.ReLU6: lambda _, __, output: output.numel(),
    nn.Upsample: lambda _, __, output: output.numel(),
}
"""Multiply-adds of a module from (module, its first input, its output)."""


class Cost(NamedTuple):
    """What `parameters`, `multiply_adds` and `all_multiply_adds` return."""

    parameters: int
    multiply_adds: int
    all_multiply_adds: int


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
    return measure(model, height, width).multiply_adds


def all_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Return the multiply-adds of all matrix products and convolutions for one image, attention's included.

    Interpolation is not counted, be it of whole maps or at the points that deformable layers look at.
    """
    return measure(model, height, width).all_multiply_adds


def measure(model: nn.Module, height: int, width: int) -> Cost:
    """Return all three counts, for one image of that size [px], after running the model once."""
    counts: list[int] = []

    def count(cost: Callable[[Any, Tensor, Tensor], int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: counts.append(cost(module, inputs[0], output))

    def deformed(_: torch.Size, weight: torch.Size, *__: Any, out_shape: torch.Size, **___: Any) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])  # operations, two per multiply-add

    # What only training needs is not part of the cost.
    predict, channels = (model.decode_main, len(model.mean)) if isinstance(model, SegmentationModel) else (model, 3)
    image = torch.zeros(1, channels, height, width, device=next(model.parameters()).device)
    with ExitStack() as stack:
        for module in model.modules():
            for kind, cost in COSTS.items():
                if isinstance(module, kind):
                    stack.callback(module.register_forward_hook(count(cost)).remove)
        # FlopCounterMode hooks into the graph of parameters that are a module's input
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        custom = {torch.ops.torchvision.deform_conv2d: deformed}
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=custom))
        # The papers' models pad windows and compute what the padding becomes.
        with torch.no_grad(), reference_mode():
            predict(image)
    return Cost(parameters(model), sum(counts), int(counter.get_total_flops()) // 2)


def cost_of(module: nn.Module, size: tuple[int, int]) -> Cost:
    """Return the cost for images of a size (height, width) [px]; the module is neither run nor changed."""
    return measure(meta_twin(module).eval(), *size)
