"""Reading tensors from files that somebody else wrote, without running anything they hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state", "params")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what a .safetensors or PyTorch file holds; a ValueError says why it could not be read.

    PyTorch files are read with `weights_only=True`: tensors and plain containers, nothing that runs code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file at {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} holds Python objects besides tensors and is not opened, since they could run code: {error}. "
            "Save its tensors alone, for instance with safetensors, where you trust the file."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is no readable weights file (truncated or another format; {type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dict of tensors")
    return content


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the bare tensors of a checkpoint: wrappers and `module.` prefixes removed, floats as float32.

    Accepts {'state_dict': …}, {'model': …} or a bare dict; entries that are no tensors are left out.
    """
    inner: Mapping[str, Any] = checkpoint
    while nested := next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None):
        inner = nested
    tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"no tensors in the checkpoint; its keys are {', '.join(map(str, list(checkpoint)[:8]))}")
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
