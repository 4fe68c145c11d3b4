"""Modules without values, for whoever wants shapes and costs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def weightless() -> Iterator[None]:
    """Let modules made inside have shapes and no values: they take no memory and hardly any time."""
    with torch.device("meta"), _Unclamped():
        yield


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
