"""Files of every format, broken in every way, through every function that reads them; run as a program.

    python -m tests.fuzz.mutate FORMAT COUNT SEED

Prints one line of JSON for every answer that is neither a tensor nor a ValueError, and the number of the file before it
is read, so that a caller sees which one ended the process.
"""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from semask.data.readers.image import probe_image, read_header, read_image, read_label
from semask.data.readers.raster import probe_raster, read_raster
from semask.recipes.recipe import DataRecipe

READERS: dict[str, Callable[[str], Any]] = {
    "read_image": read_image,
    "probe_image": probe_image,
    "read_label": read_label,
    "read_header": read_header,
    **{f"read_raster {count}": partial(read_raster, data=DataRecipe(channels=count)) for count in (1, 3, 4)},
    "read_raster range": partial(read_raster, data=DataRecipe(value_range=(0.0, 1000.0))),
    "probe_raster 4": partial(probe_raster, data=DataRecipe(channels=4)),
}


def seeds(kind: str, draw: random.Random) -> Iterator[bytes]:
    """Whole files of one format, in its variants."""
    noise = np.random.default_rng(draw.randrange(2**32))
    small = partial(noise.integers, 0, 256, dtype=np.uint8)
    deep = partial(noise.integers, 0, 65536, dtype=np.uint16)
    if kind == "tiff":
        options: list[tuple[np.ndarray, dict[str, Any]]] = [
            (small((9, 7)), {"photometric": "minisblack"}),
            (small((9, 7)), {"photometric": "miniswhite"}),
            (deep((9, 7, 3)), {"photometric": "rgb", "compression": "zlib"}),
            (small((9, 7, 4)), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
            (deep((4, 32, 32)), {"photometric": "minisblack", "planarconfig": "separate", "tile": (16, 16)}),
            (noise.standard_normal((9, 7)).astype(np.float32), {"photometric": "minisblack"}),
        ]
        for array, keywords in options:
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, array, **keywords)
            yield buffer.getvalue()
        return
    images = [Image.fromarray(small((9, 7))), Image.fromarray(small((9, 7, 3)))]
    if kind in ("png", "webp"):
        images.append(Image.fromarray(small((9, 7, 4))))
    if kind == "png":
        images += [Image.fromarray(deep((9, 7))), images[1].quantize(7), Image.fromarray(small((9, 7)) > 127)]
        yield deep_png(deep((9, 7, 4)))
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, kind)
        yield buffer.getvalue()


def deep_png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits and four channels, which Pillow does not write."""
    height, width, _ = samples.shape
    rows = b"".join(bytes([row % 5]) + samples[row].astype(">u2").tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, content) for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Broken: bytes changed, cut, doubled, swapped or lost; the parts of a PNG may get right checksums again."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        place, length = draw.randrange(max(1, len(data))), draw.choice((1, 1, 2, 4, 12, 40))
        match draw.randrange(6):
            case 0:
                data[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                data[place : place + length] = draw.choice((b"\x00", b"\xff", b"\x7f")) * length
            case 2:
                del data[place:]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                del data[place : place + length]
            case 5:
                data += draw.randbytes(length)
    return repaired(bytes(data)) if content[:4] == b"\x89PNG" and draw.random() < 0.6 else bytes(data)


def repaired(content: bytes) -> bytes:
    """The PNG with right checksums, so that errors lie deeper."""
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if place + 12 + length > len(content):
            break
        parts.append(chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return b"".join([*parts, content[place:]])


def main(kind: str, count: int, seed: int) -> None:
    """Read `count` broken files."""
    draw = random.Random(seed)
    whole = list(seeds(kind, draw))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{kind}"
        for number in range(count):
            path.write_bytes(mutated(draw.choice(whole), draw))
            print(number, flush=True)
            for name, read in READERS.items():
                try:
                    read(str(path))
                except ValueError:
                    continue
                except Exception as error:
                    print(json.dumps([number, name, type(error).__name__, str(error)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
