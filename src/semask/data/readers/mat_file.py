"""Label maps in MATLAB's files of level 5, the form of Pascal Context, SBD and COCO-Stuff 10k.

`scipy.io.loadmat` reads them too, but one broken byte makes it read beyond its tables, which kills the process: see
docs/decisions/0021.

Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from semask.data.readers.source import MAX_BYTES, MAX_PIXELS, Source

HEADER = 128
ORDERS = {b"\0\1IM": "<", b"\1\0MI": ">"}
"""The end of a header, level and order of bytes, and `struct`'s name of that order."""
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Kinds of elements that hold numbers."""
STRUCT, NUMERIC, COMPLEX = 2, range(6, 16), 0x800
"""Classes of matrices, and the flag of complex numbers."""


class Matrix(NamedTuple):
    """A matrix: its class and flags, its shape, its name, and the elements that follow these."""

    flags: int
    shape: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, memoryview]]


def read_mat(source: Source, variable: str, *fields: str) -> Integer[np.ndarray, "H W"]:
    """Return a variable of whole numbers, or a field of a struct: `read_mat(file, "GTcls", "Segmentation")`.

    Raises:
        ValueError: the file is broken, has no such variable, or it is no map of whole numbers.
    """
    with source.open("rb") as file:
        content = file.read(MAX_BYTES)
    path = ".".join((variable, *fields))
    try:
        order = ORDERS.get(content[HEADER - 4 : HEADER])
        if order is None:
            raise ValueError("it does not begin as one of MATLAB 5 to 7")
        matrix = _find_variable(memoryview(content)[HEADER:], order, variable)
        for field in fields:
            matrix = _find_field(matrix, order, field)
        # numbers are stored column by column
        kind, part = next(matrix.rest, (0, memoryview(b"")))
        if matrix.flags & 0xFF not in NUMERIC or matrix.flags & COMPLEX or kind not in NUMBERS:
            raise ValueError("it does not hold plain numbers")
        values = np.frombuffer(part, f"{order}{NUMBERS[kind]}")
        if min(matrix.shape, default=-1) < 0 or math.prod(matrix.shape) != values.size:
            raise ValueError(f"{values.size} numbers for a matrix of {'×'.join(map(str, matrix.shape))}")
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{source}: no readable .mat file with {path} ({error}); fetch it again") from error
    value: np.ndarray = values.astype(values.dtype.newbyteorder("=")).reshape(matrix.shape, order="F")
    if value.ndim != 2 or value.dtype.kind not in "iu" or not 0 < value.size <= MAX_PIXELS:
        raise ValueError(
            f"{source}: {path} is no map of whole numbers but {value.dtype} of shape {value.shape}; fetch it again"
        )
    return value


def _find_variable(content: memoryview, order: str, name: str) -> Matrix:
    for element in _elements(content, order):
        kind, part = element
        if kind == COMPRESSED:
            # one element inside, inflated to a bounded size
            inside = memoryview(zlib.decompressobj().decompress(part, MAX_BYTES))
            kind, part = next(_elements(inside, order), (0, inside))
        if kind == MATRIX and (matrix := _parse_matrix(part, order)).name == name:
            return matrix
    raise ValueError(f"it has no variable {name!r}")


def _find_field(matrix: Matrix, order: str, name: str) -> Matrix:
    """Return a field of a single struct: the length of names is followed by all names, then by all values."""
    if matrix.flags & 0xFF != STRUCT or math.prod(matrix.shape) != 1:
        raise ValueError(f"{matrix.name!r} is no single struct")
    (_, width), (_, names) = islice(matrix.rest, 2)
    (length,) = struct.unpack_from(f"{order}i", width)
    for start, (kind, part) in zip(range(0, len(names), length), matrix.rest, strict=False):
        if kind == MATRIX and _text(names[start : start + length]) == name:
            return _parse_matrix(part, order)
    raise ValueError(f"{matrix.name!r} has no field {name!r}")


def _parse_matrix(content: memoryview, order: str) -> Matrix:
    elements = _elements(content, order)
    (_, flags), (_, sides), (_, name) = islice(elements, 3)
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    return Matrix(struct.unpack_from(f"{order}I", flags)[0], shape, _text(name), elements)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and content of one element after the other; short ones have their content within their tag."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        begin, end = place + 8, place + 8 + size
        following = end if kind == COMPRESSED else end + -size % 8
        # short form: kind and size share the first four bytes
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            begin, end, following = place + 4, place + 4 + min(size, 4), place + 8
        if end > len(content):
            raise ValueError("it is cut short")
        yield kind, content[begin:end]
        place = following


def _text(content: memoryview) -> str:
    return bytes(content).split(b"\0")[0].decode("latin-1")
