"""Values of label files, and how class tables write them: numbers ("7"), ranges ("0-127") and colours ("#00ff00")."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from semask.ops.palette import Colour

LOWEST, HIGHEST = -(2**31), 2**32 - 1
"""Limits of the numbers in label files: 32 bits, signed or not."""
MAX_VALUE = 65535
"""The largest value of label files with a table of their own; others are looked for one by one."""
COLOUR = 2**32
"""A pixel of colour #rrggbb has the value COLOUR + 0xrrggbb, beyond all numbers."""
LARGEST = COLOUR + 0xFFFFFF


def pack_colours(pixels: UInt8[np.ndarray, "... 3"]) -> Int64[np.ndarray, ...]:
    """Return the values of RGB pixels."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    values: np.ndarray = COLOUR + (red << 16 | green << 8 | blue)
    return values


def grey_levels(values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the values with every colour of three equal channels replaced by its level, 0 … 255."""
    level = values & 0xFF
    return np.where(values - COLOUR == level * 0x010101, level, values)


def parse_colour(text: str) -> Colour | None:
    """Return the colour of "#rrggbb", or None for another text."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def parse_key(key: str) -> tuple[int, int]:
    """Return the first and the last value that a key of "labels" stands for.

    Raises:
        ValueError: the key is no number, range or colour.
    """
    if (colour := parse_colour(key)) is not None:
        value = int(pack_colours(np.array(colour, np.uint8)))
        return value, value
    if re.fullmatch(r"-?[0-9]{1,10}", key) and LOWEST <= int(key) <= HIGHEST:
        return int(key), int(key)
    if span := re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", key):
        first, last = int(span[1]), int(span[2])
        if first <= last <= MAX_VALUE:
            return first, last
        raise ValueError(f"labels: the range {key!r} goes from a value to the same or a larger one, up to {MAX_VALUE}")
    raise ValueError(
        f"labels: {key!r} is no pixel value; keys are whole numbers from {LOWEST} to {HIGHEST}, ranges such as "
        '"0-127", or colours such as "#00ff00"'
    )


def name_of(value: int) -> str:
    """Return a value as class tables write it."""
    return str(value) if value < COLOUR else f"#{value - COLOUR:06x}"


def runs(values: Integer[np.ndarray, ...]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the value and the length of every run of equal values, row after row."""
    flat = values.reshape(-1).astype(np.int64, copy=False)
    starts = np.flatnonzero(np.concatenate([[flat.size > 0], flat[1:] != flat[:-1]]))
    return flat[starts], np.diff(np.append(starts, flat.size))
