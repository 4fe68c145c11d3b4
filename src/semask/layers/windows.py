"""Cutting a map into square windows of tokens and putting it together again."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semask.geometry import padding_to_multiple


def pad_to_windows(x: Float[Tensor, "b h w c"], size: int) -> Float[Tensor, "b H W c"]:
    """Pad a map with zeros at the right and bottom so that windows of `size` tokens tile it."""
    bottom, right = padding_to_multiple(x.shape[1], x.shape[2], size)
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def split_windows(x: Float[Tensor, "b h w c"], size: int) -> Float[Tensor, "nb n c"]:
    """Cut a map whose sides are multiples of `size` into windows, row by row, each flattened to its tokens."""
    windows: Tensor = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # b rows i columns j c
    return windows.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(windows: Float[Tensor, "nb n c"], size: int, height: int, width: int) -> Float[Tensor, "b h w c"]:
    """Undo `split_windows` for a map of height × width tokens."""
    rows, columns = height // size, width // size
    grid: Tensor = windows.unflatten(1, (size, size)).unflatten(0, (-1, rows, columns))  # b rows columns i j c
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
