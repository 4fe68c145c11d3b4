"""Modules without values, for whoever wants shapes and costs alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Let modules made inside have shapes and no values: they take no memory and hardly any time."""
    with torch.device("meta"), _Unfilled():
        yield


@contextmanager
def skip_init() -> Iterator[None]:
    """Let modules made inside have parameters of shapes alone, and buffers with their values.

    For `load_state_dict(…, assign=True)`, which brings the values: random ones, to be replaced at once, take longer to
    draw than a file takes to read.
    """
    register = nn.Module.register_parameter

    def register_shape(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_shape  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def meta_twin(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, made without a copy of the weights; hooks stay behind."""
    stands_for: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    for value in module.parameters():
        stands_for[id(value)] = nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)
    twin = copy.deepcopy(module, stands_for)
    for part in twin.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            hooks.clear()
    return twin


class _Unfilled(TorchFunctionMode):
    """Skip drawing random values, which the meta device runs as Python: most of what a model costs there."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if func in _FILLS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))


_FILLS = (
    *(Tensor.zero_, Tensor.fill_, Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.clamp_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.constant_),
)
"""In-place functions that initialise parameters: shapes stay."""
