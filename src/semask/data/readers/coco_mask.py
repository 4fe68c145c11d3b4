"""Masks as COCO writes them: run lengths down the columns, as numbers or as text, or polygons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
        runs = _runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"run lengths of {sum(runs)} pixels for a mask of {height}×{width}")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        columns: np.ndarray = flat.reshape(width, height).T
        return columns
    if isinstance(mask, Sequence) and not isinstance(mask, str) and all(isinstance(part, Sequence) for part in mask):
        return _filled(mask, height=height, width=width)
    raise ValueError(f"no mask of run lengths or polygons: {str(mask)[:60]}")


def _runs(text: str) -> list[int]:
    """Read COCO's text: five bits a character, the sixth says that more follow; from the fourth run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _filled(polygons: Sequence[Any], *, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        corners = [float(value) for value in polygon]
        if not all(map(math.isfinite, corners)):
            raise ValueError("a polygon with corners that are no numbers")
        if len(corners) >= 6:
            draw.polygon(corners, fill=1)
    return np.array(picture)
