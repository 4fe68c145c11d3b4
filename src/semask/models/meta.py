"""Modules without values, for whoever wants shapes and costs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Let modules made inside have shapes and no values: they take no memory and hardly any time."""
    with torch.device("meta"), _Unclamped():
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


class _Unclamped(TorchFunctionMode):
    """Skip the clamping of random values, which the meta device runs as Python: most of what a model costs there."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return args[0] if func is torch.Tensor.clamp_ else func(*args, **(kwargs or {}))
