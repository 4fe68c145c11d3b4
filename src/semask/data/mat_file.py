"""Label maps in MATLAB files."""

from __future__ import annotations

import zlib
from io import BytesIO

import numpy as np
from jaxtyping import Integer

from semask.data.image import MAX_PIXELS
from semask.data.source import MAX_BYTES, Source

BROKEN = (ValueError, TypeError, KeyError, IndexError, OSError, NotImplementedError, zlib.error, MemoryError)
"""What SciPy raises on broken bytes, besides its own MatReadError."""


def read_mat(source: Source, *keys: str) -> Integer[np.ndarray, "H W"]:
    """Return a variable of whole numbers, or a field of a struct: `read_mat(file, "GTcls", "Segmentation")`.

    Raises:
        ValueError: the file is broken, has no such variable, or it is no map of whole numbers.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with source.open("rb") as file:
        content = file.read(MAX_BYTES)
    try:
        value = loadmat(BytesIO(content), variable_names=[keys[0]])[keys[0]]
        for key in keys[1:]:
            value = value[key].flat[0]
    except (MatReadError, *BROKEN) as error:
        raise ValueError(f"{source}: no readable .mat file with {'.'.join(keys)} ({error}); fetch it again") from error
    if not (
        isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iu" and 0 < value.size <= MAX_PIXELS
    ):
        told = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{source}: {'.'.join(keys)} is no map of whole numbers but {told}; fetch it again")
    return value
