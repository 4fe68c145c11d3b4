"""A reader of tensors from files of unknown origin, which runs no code of theirs."""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state", "params")
_TORCH_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the pickles that torch.save wrote before it wrote zip files."""
_NUMBERS = re.compile(r"[<>|=]?([?bBhHiIlLqQefd]|b1|[iu][1248]|f[248])")
"""Codes of numpy for booleans, integers and floats."""
_MOST_AXES, _LONGEST_SIDE = 64, 2**63 - 1
_BROKEN = (
    SafetensorError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""Errors of the libraries over files that are damaged by accident or on purpose."""


class StoredDtype:
    """The stand-in of numpy.dtype in a file: kind of number and byte order.

    numpy's own class takes offsets and objects from a pickle unchecked, and so reads the process's memory.
    """

    def __init__(self, code: object, *_: object) -> None:
        """`code` is numpy's, such as f4; a pickle also passes flags on copying, which do not matter here."""
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"it asks for an array of {code!r:.40}, which is no kind of number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, and nothing else."""
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("an array without byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray:
    """The stand-in of numpy.ndarray in a file; `array` is made of checked sizes."""

    array: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        """The empty array that a pickle begins with; its state follows."""

    def __setstate__(self, state: Any) -> None:
        """Take the array as numpy has written it since version 1."""
        _, shape, dtype, fortran, raw = state
        self.array = _array(raw, dtype, shape, "F" if fortran else "C")

    # methods of the class, since a pickle could set attributes of functions
    @classmethod
    def from_buffer(cls, raw: object, dtype: object, shape: Any, order: str, axes: Any = None) -> StoredArray:
        """The array that protocol 5 of pickle writes; `axes` is how it lay in memory."""
        stored = cls()
        array = _array(raw, dtype, shape, "F" if order == "F" else "C")
        stored.array = array if axes is None else array.transpose(axes)
        return stored

    @classmethod
    def scalar(cls, dtype: object, raw: object) -> bool | float:
        """The Python number of a scalar of numpy."""
        number: bool | float = _array(raw, dtype, (), "C").item()
        return number

    @classmethod
    def encode(cls, text: object = "", encoding: object = "latin1") -> bytes:
        """Bytes that protocols up to 2 of pickle write as text, or as a call of `bytes` where there are none."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it asks for an encoding besides latin1")
        return text.encode("latin1")


class StoredDict(dict[Any, Any]):
    """The stand-in of collections.OrderedDict in a pickle."""

    def __init__(self, pairs: object = ()) -> None:
        """`pairs` is a list."""
        if pairs != () and type(pairs) is not list:
            raise pickle.UnpicklingError("it asks for collections.OrderedDict of more than a list")
        super().__init__(pairs)

    def __setstate__(self, state: Any) -> None:
        """Leave out attributes, which are PyTorch's versions of modules."""


_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): StoredDtype,
    # both names of numpy's internals: before version 2, and since
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StoredArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): StoredArray.scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): StoredArray.from_buffer for core in ("core", "_core")},
    # Python 2's name of the module and Python 3's
    **{(builtins, "bytes"): StoredArray.encode for builtins in ("__builtin__", "builtins")},
}
"""Stand-ins of the functions and classes that arrays in a file ask for; none is numpy's own."""
_IN_PICKLES = _ARRAYS | {
    ("_codecs", "encode"): StoredArray.encode,
    ("collections", "OrderedDict"): StoredDict,
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of stand-ins of arrays and plain containers, which refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a class or function, by its module and name."""
        if (module, name) not in _IN_PICKLES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _IN_PICKLES[module, name]


def read_checkpoint(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Content of a .safetensors or PyTorch file.

    PyTorch files are read with `weights_only=True`: tensors and plain containers, nothing that runs code. `trust` also
    reads numpy arrays of numbers, in such files and in plain pickles (detectron2's model zoo), without numpy's own
    classes; other objects are refused all the same.

    Raises:
        ValueError: The file is missing or damaged, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file at {str(path)!r}")
    try:
        content = _plain(_read(path, trust=trust), {})
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error, trust=trust)) from error
    except _BROKEN as error:
        raise ValueError(
            f"{path.name} is no readable weights file (truncated or another format; {type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dict of tensors")
    return content


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The bare tensors of a checkpoint: wrappers and `module.` prefixes removed, floats as float32.

    Accepts {'state_dict': …}, {'model': …} or a bare dict; arrays become tensors, and other entries are left out.
    """
    # wrappers may be nested
    inner: Mapping[str, Any] = checkpoint
    while nested := next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None):
        inner = nested
    # arrays of booleans, integers and floats, not those of text or objects
    tensors: dict[str, Tensor] = {}
    for key, value in inner.items():
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        if isinstance(key, str) and (numeric or isinstance(value, Tensor)):
            tensors[key] = torch.tensor(value) if numeric else value
    if not tensors:
        raise ValueError(f"no tensors in the checkpoint; its keys are {', '.join(map(str, list(checkpoint)[:8]))}")
    # the prefix of DistributedDataParallel, once for every wrapper
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _read(path: Path, *, trust: bool) -> Any:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    with path.open("rb") as file:
        start = file.read(len(_TORCH_BEFORE_ZIP))
    # files of torch.save, old or new
    if not start.startswith(b"\x80") or start == _TORCH_BEFORE_ZIP:
        arrays: list[Any] = [(stand_in, ".".join(name)) for name, stand_in in _ARRAYS.items()]
        with torch.serialization.safe_globals(arrays) if trust else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    if not trust:
        raise pickle.UnpicklingError("a plain pickle, whose tensors are numpy arrays")
    with path.open("rb") as file:
        # Python 2 wrote the pickles of the model zoo
        return ArrayUnpickler(file, encoding="latin1").load()


def _array(raw: object, stored: object, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    """An array of its bytes in this machine's byte order.

    Raises:
        ValueError: The number of bytes is not that of the shape and the kind.
    """
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # Python 2 wrote bytes as text
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(stored, StoredDtype) or not isinstance(shape, tuple):
        raise ValueError("an array without bytes, kind or shape")
    if len(shape) > _MOST_AXES or not all(type(side) is int and 0 <= side <= _LONGEST_SIDE for side in shape):
        raise ValueError("an array of an impossible shape")
    dtype = stored.dtype
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} and kind {dtype} in {len(raw)} bytes")
    # a byte that is neither 0 nor 1 is no valid boolean in memory
    flat = np.frombuffer(raw, np.uint8 if dtype.kind == "b" else dtype)
    return flat.reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The content of a file with arrays for their stand-ins and plain dicts for all others.

    `done` holds results by the ids of their objects: an object that occurs often is copied once.
    """
    if id(value) not in done:
        if isinstance(value, StoredArray):
            done[id(value)] = value.array
        elif isinstance(value, dict):
            done[id(value)] = {key: _plain(item, done) for key, item in dict.items(value)}
        elif type(value) in (list, tuple):
            done[id(value)] = type(value)(_plain(item, done) for item in value)
        else:
            return value
    return done[id(value)]


def _refusal(path: Path, error: pickle.UnpicklingError, *, trust: bool) -> str:
    # cut short, arrays that need --trust, or objects that are never read
    if "truncated" in str(error):
        return f"{path.name} is no readable weights file (truncated; {error})"
    if not trust and "numpy" in str(error):
        return (
            f"{path.name} holds numpy arrays, as detectron2's model zoo and converted ImageNet weights do, and is not "
            "opened unasked. If you trust where it comes from, use --trust (in Python trust=True); even then nothing "
            "but arrays and plain containers is made of it."
        )
    return (
        f"{path.name} holds Python objects besides tensors and is not opened, since they could run code: {error}. "
        "Save its tensors alone, for instance with safetensors, where you trust the file."
    )
