"""Reading tensors from files that somebody else wrote, without running anything they hold."""

from __future__ import annotations

import codecs
import collections
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state", "params")
_TORCH_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What files of torch.save began with before they were zip files; they are pickles too."""
_MAKE_ARRAY, _MAKE_SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_IN_PICKLES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _MAKE_ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _MAKE_SCALAR for core in ("core", "_core")},
    ("_codecs", "encode"): codecs.encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
"""What a pickle of arrays calls for; nothing else is made of one."""
_IN_TORCH_FILES: list[Any] = [
    np.ndarray,
    np.dtype,
    _MAKE_ARRAY,
    _MAKE_SCALAR,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows numpy's arrays and plain containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call for."""
        if (module, name) not in _IN_PICKLES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _IN_PICKLES[module, name]


def read_checkpoint(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Return what a .safetensors or PyTorch file holds; a ValueError says why it could not be read.

    PyTorch files are read with `weights_only=True`: tensors and plain containers, nothing that runs code. `trust` also
    reads numpy arrays, in such files and in plain pickles (detectron2's model zoo), by an unpickler that makes nothing
    but arrays and plain containers; other objects are refused all the same.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file at {str(path)!r}")
    try:
        content = _read(path, trust=trust)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error, trust=trust)) from error
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path.name} is no readable weights file (truncated or another format; {type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dict of tensors")
    return content


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the bare tensors of a checkpoint: wrappers and `module.` prefixes removed, floats as float32.

    Accepts {'state_dict': …}, {'model': …} or a bare dict; arrays become tensors, and entries that are neither are left
    out.
    """
    inner: Mapping[str, Any] = checkpoint
    while nested := next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None):
        inner = nested
    values = ((key, torch.tensor(value) if _is_numeric(value) else value) for key, value in inner.items())
    tensors = {key: value for key, value in values if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"no tensors in the checkpoint; its keys are {', '.join(map(str, list(checkpoint)[:8]))}")
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _read(path: Path, *, trust: bool) -> Any:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    if not _is_plain_pickle(path):
        with torch.serialization.safe_globals(_IN_TORCH_FILES) if trust else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    if not trust:
        raise pickle.UnpicklingError("a plain pickle, whose tensors are numpy arrays")
    with path.open("rb") as file:
        # Those of the model zoo were written by Python 2.
        return ArrayUnpickler(file, encoding="latin1").load()


def _is_plain_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(_TORCH_BEFORE_ZIP))
    return start.startswith(b"\x80") and start != _TORCH_BEFORE_ZIP


def _refusal(path: Path, error: pickle.UnpicklingError, *, trust: bool) -> str:
    if "truncated" in str(error):
        return f"{path.name} is no readable weights file (truncated; {error})"
    if not trust and "numpy" in str(error):
        return (
            f"{path.name} holds numpy arrays, as detectron2's model zoo and converted ImageNet weights do, and is not "
            "opened unasked. If you trust where it comes from, say --trust (in Python trust=True); even then nothing "
            "but arrays and plain containers is made of it."
        )
    return (
        f"{path.name} holds Python objects besides tensors and is not opened, since they could run code: {error}. "
        "Save its tensors alone, for instance with safetensors, where you trust the file."
    )


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
