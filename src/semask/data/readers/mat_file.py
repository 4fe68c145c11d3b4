"""Label maps in MATLAB's files of level 5, as Pascal Context, SBD and COCO-Stuff 10k come.

SciPy reads them too, but a few broken bytes make it look beyond its tables, which ends Python without a word.

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

from semask.data.readers.image import MAX_PIXELS
from semask.data.readers.source import MAX_BYTES, Source

HEADER = 128
ORDERS = {b"\0\1IM": "<", b"\1\0MI": ">"}
"""How a header ends, level and order of bytes, and what `struct` calls that order."""
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Kinds of elements that hold numbers."""
STRUCT, NUMERIC, COMPLEX = 2, range(6, 16), 0x800
"""Classes of matrices, and the flag of those of complex numbers."""


class Matrix(NamedTuple):
    """A matrix: its class and flags, its name, and the elements that follow these."""

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
    told = ".".join((variable, *fields))
    try:
        order = ORDERS.get(content[HEADER - 4 : HEADER])
        if order is None:
            raise ValueError("it does not begin as one of MATLAB 5 to 7")
        matrix = _variable(memoryview(content)[HEADER:], order, variable)
        for field in fields:
            matrix = _field(matrix, order, field)
        value = _numbers(matrix, order)
    except (ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{source}: no readable .mat file with {told} ({error}); fetch it again") from error
    if value.ndim != 2 or value.dtype.kind not in "iu" or not 0 < value.size <= MAX_PIXELS:
        raise ValueError(
            f"{source}: {told} is no map of whole numbers but {value.dtype} of shape {value.shape}; fetch it again"
        )
    return value


def _variable(content: memoryview, order: str, name: str) -> Matrix:
    for element in _elements(content, order):
        kind, part = _unpacked(element[1], order) if element[0] == COMPRESSED else element
        if kind == MATRIX and (matrix := _matrix(part, order)).name == name:
            return matrix
    raise ValueError(f"it has no variable {name!r}")


def _unpacked(content: memoryview, order: str) -> tuple[int, memoryview]:
    """Return the one element that is compressed."""
    unpacked = memoryview(zlib.decompressobj().decompress(content, MAX_BYTES))
    return next(_elements(unpacked, order), (0, unpacked))


def _field(matrix: Matrix, order: str, name: str) -> Matrix:
    """Return a field of a single struct: after the length of names come all names, then all values."""
    if matrix.flags & 0xFF != STRUCT or math.prod(matrix.shape) != 1:
        raise ValueError(f"{matrix.name!r} is no single struct")
    (_, width), (_, names) = islice(matrix.rest, 2)
    (length,) = struct.unpack_from(f"{order}i", width)
    for start, (kind, part) in zip(range(0, len(names), length), matrix.rest, strict=False):
        if kind == MATRIX and _text(names[start : start + length]) == name:
            return _matrix(part, order)
    raise ValueError(f"{matrix.name!r} has no field {name!r}")


def _numbers(matrix: Matrix, order: str) -> np.ndarray:
    """Return the numbers of a matrix, which are stored column by column, in the type they are stored in."""
    kind, part = next(matrix.rest, (0, memoryview(b"")))
    if matrix.flags & 0xFF not in NUMERIC or matrix.flags & COMPLEX or kind not in NUMBERS:
        raise ValueError("it does not hold plain numbers")
    values = np.frombuffer(part, f"{order}{NUMBERS[kind]}")
    native: np.ndarray = values.astype(values.dtype.newbyteorder("="))
    if min(matrix.shape, default=-1) < 0 or math.prod(matrix.shape) != native.size:
        raise ValueError(f"{native.size} numbers for a matrix of {'×'.join(map(str, matrix.shape))}")
    return native.reshape(matrix.shape, order="F")


def _matrix(content: memoryview, order: str) -> Matrix:
    elements = _elements(content, order)
    (_, flags), (_, sides), (_, name) = islice(elements, 3)
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    return Matrix(struct.unpack_from(f"{order}I", flags)[0], shape, _text(name), elements)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and content of one element after the other; the content of short ones lies within their tag."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        begin, end = place + 8, place + 8 + size
        following = end if kind == COMPRESSED else end + -size % 8
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            begin, end, following = place + 4, place + 4 + min(size, 4), place + 8
        if end > len(content):
            raise ValueError("it is cut short")
        yield kind, content[begin:end]
        place = following


def _text(content: memoryview) -> str:
    return bytes(content).split(b"\0")[0].decode("latin-1")
