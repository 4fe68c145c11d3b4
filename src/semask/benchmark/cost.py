"""What a module costs, counted on a twin without values."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import nn

from semask.complexity import all_multiply_adds, parameters


class Cost(NamedTuple):
    """Parameters, and multiply-adds of one forward pass of one image."""

    parameters: int
    multiply_adds: int


def cost_of(module: nn.Module, size: tuple[int, int]) -> Cost:
    """Return the cost for images of a size (height, width) [px]; the module is neither run nor changed."""
    twin = _weightless_twin(module).eval()
    return Cost(parameters(module), all_multiply_adds(twin, *size))


def _weightless_twin(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, made without a copy of the weights."""
    values = [*module.parameters(), *module.buffers()]
    stands_for = {id(value): value.to("meta") for value in values}
    for value in module.parameters():
        stands_for[id(value)] = nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)
    return copy.deepcopy(module, dict(stands_for))
