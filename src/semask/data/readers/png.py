"""Samples of PNG files at their full depth, which Pillow cuts to 8 bits.

torchvision's decoder has that depth and ends the process on some broken files, so every byte that it is given has been
checked: the header, the checksums, the compressed stream, its length and its filters.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from semask.data.readers.source import MAX_BYTES, MAX_PIXELS, Source, UnsupportedFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Channels by PNG's number of the colour type; palettes (3) are read elsewhere."""
MOST_UNPACKED = 2**29
"""Bytes of the largest decoded image; several copies of it are in memory for a moment."""
ORIENTATION = 0x0112
"""EXIF's tag."""
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7's passes: first column, first row, and the steps between columns and between rows."""


def read_header(start: bytes) -> tuple[int, int] | None:
    """Bits per sample and colour type of a PNG that begins so; None for other files."""
    return (start[24], start[25]) if start[:8] == SIGNATURE and len(start) > 25 else None


def read_samples(source: Source) -> np.ndarray:
    """Samples of a PNG of 8 or 16 bits without a palette, c H W; alpha is the last channel.

    Raises:
        UnsupportedFile: the file is broken, too large or of another kind.
    """
    with source.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnsupportedFile(f"larger than {MAX_BYTES} bytes; cut it into tiles")
    chunks = list(_chunks(content))
    orientation = next((_orientation(part) for name, part in chunks if name == b"eXIf"), 1)
    if orientation != 1:
        raise UnsupportedFile(f"is stored turned or mirrored (orientation {orientation}); save it upright")
    header = chunks[0][1] if chunks and chunks[0][0] == b"IHDR" else b""
    if len(header) != 13:
        raise UnsupportedFile("a PNG without a header; restore the file")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth not in (8, 16) or colour not in CHANNELS or header[10:12] != b"\0\0" or interlaced > 1:
        raise UnsupportedFile(f"a PNG of {depth} bits and colour type {colour}")
    pixel = CHANNELS[colour] * depth // 8
    if not 0 < width * height <= MAX_PIXELS or width * height * pixel > MOST_UNPACKED:
        raise UnsupportedFile(
            f"too large ({width}×{height} pixels); at most {MAX_PIXELS} pixels in {MOST_UNPACKED} bytes are read"
        )

    # the rows, each with its filter before it, must be as many as the header claims
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    spans = [(1 + columns * pixel, rows) for columns, rows in sizes if columns > 0 and rows > 0]
    rows = _inflate(b"".join(part for name, part in chunks if name == b"IDAT"), sum(a * b for a, b in spans))
    start = 0
    for stride, count in spans:
        if np.frombuffer(rows, np.uint8, stride * count, start)[::stride].max() > 4:
            raise UnsupportedFile("a PNG with an unknown filter; restore the file")
        start += stride * count

    # nothing else of the file reaches the decoder
    del content, chunks
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    checked = SIGNATURE + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    samples: np.ndarray = decode_png(
        torch.frombuffer(bytearray(checked), dtype=torch.uint8), ImageReadMode.UNCHANGED
    ).numpy()
    return samples


def check_pixels(file: BinaryIO) -> None:
    """Compare the checksums of the parts with pixels, as Pillow does not: damaged ones would decode to other pixels.

    The file keeps its place; what is cut short is left to Pillow.

    Raises:
        UnsupportedFile: a checksum is wrong.
    """
    place = file.tell()
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name != b"IDAT":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        sum_, left = zlib.crc32(name), length
        while left and (block := file.read(min(left, 2**20))):
            sum_, left = zlib.crc32(block, sum_), left - len(block)
        stored = file.read(4)
        if len(stored) == 4 and stored != sum_.to_bytes(4, "big"):
            raise UnsupportedFile("damaged: a PNG with a wrong checksum; restore the file")
    file.seek(place)


def _orientation(exif: bytes) -> int:
    found = Image.Exif()
    try:
        found.load(b"Exif\0\0" + exif)
    except (SyntaxError, ValueError, OSError, struct.error):
        return 1  # no decoder turns by EXIF that it cannot read
    value = found.get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of every part up to the end, with checksums compared for those that are read."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        name, part = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        stored = content[place + 8 + length : place + 12 + length]
        if name == b"IEND":
            return
        if name in (b"IHDR", b"IDAT", b"eXIf") and stored != struct.pack(">I", zlib.crc32(name + part)):
            raise UnsupportedFile("a PNG with a wrong checksum; restore the file")
        yield name, part
        place += 12 + length
    raise UnsupportedFile("a truncated PNG; restore the file")


def _inflate(stream: bytes, length: int) -> bytes:
    """Exactly `length` bytes of a compressed stream."""
    unpack = zlib.decompressobj()
    try:
        rows = unpack.decompress(stream, length + 1)
    except zlib.error as error:
        raise UnsupportedFile(f"a broken PNG ({error}); restore the file") from error
    if len(rows) != length or not unpack.eof:
        raise UnsupportedFile("a PNG of more or fewer pixels than its header has; restore the file")
    return rows
