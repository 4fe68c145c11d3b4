"""COCO's masks: run lengths down the columns, as numbers or as text, or polygons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw


def decode_mask(mask: object, *, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return a mask of {"counts": …, "size": [height, width]}, or of a list of polygons [x, y, x, y, …] in [px].

    Raises:
        ValueError: it is neither, or of another size.
    """
    if isinstance(mask, Mapping) and "counts" in mask:
        counts = mask["counts"]
        runs = _decode_runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"run lengths of {sum(runs)} pixels for a mask of {height}×{width}")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        columns: np.ndarray = flat.reshape(width, height).T
        return columns
    if isinstance(mask, Sequence) and not isinstance(mask, str) and all(isinstance(part, Sequence) for part in mask):
        image = Image.new("1", (width, height))
        draw = ImageDraw.Draw(image)
        for polygon in mask:
            corners = [float(value) for value in polygon]
            if not all(map(math.isfinite, corners)):
                raise ValueError("a polygon with NaN or infinite corners")
            if len(corners) >= 6:
                draw.polygon(corners, fill=1)
        return np.array(image)
    raise ValueError(f"no mask of run lengths or polygons: {str(mask)[:60]}")


def _decode_runs(text: str) -> list[int]:
    """Decode COCO's text: five bits a character, the sixth continues a number; from the fourth run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        # the last character carries the sign
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def encode_mask(mask: Bool[np.ndarray, "H W"]) -> str:
    """Return COCO's text of the run lengths of a mask, down the columns; `decode_mask` reads it."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    # the first run counts pixels outside the mask
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    text = []
    for number, run in enumerate(runs):
        value, more = run - (runs[number - 2] if number > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            # the last character carries the sign
            more = value != (-1 if bits & 16 else 0)
            text.append(chr((bits | 32 * more) + 48))
    return "".join(text)
