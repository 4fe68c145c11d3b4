"""Cutting a map into square windows of tokens and putting it together again."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from semask.ops.geometry import padding_to_multiple


def pad_to_windows(x: Float[Tensor, "b h w c"], size: int) -> Float[Tensor, "b H W c"]:
    """Pad a map with zeros at the right and bottom so that windows of `size` tokens tile it."""
    bottom, right = padding_to_multiple(x.shape[1], x.shape[2], size)
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def split_windows(x: Shaped[Tensor, "b h w c"], size: int) -> Shaped[Tensor, "nb n c"]:
    """Cut a map whose sides are multiples of `size` into windows, row by row, each flattened to its tokens."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    grid = x.reshape(batch, rows, size, columns, size, channels).transpose(2, 3)
    return grid.reshape(batch * rows * columns, size * size, channels)


def join_windows(
    windows: Float[Tensor, "nb n c"], size: int, like: Float[Tensor, "b h w _c"]
) -> Float[Tensor, "b h w c"]:
    """Undo `split_windows` for maps of the shape of `like`, but for the channels."""
    batch, height, width, _ = like.shape
    grid = windows.reshape(batch, height // size, width // size, size, size, windows.shape[-1])
    return grid.transpose(2, 3).reshape(batch, height, width, windows.shape[-1])


def run_in_windows(
    x: Float[Tensor, "b h w c"], size: int, *, shift: int, attend: Callable[[Tensor, Tensor | None], Tensor]
) -> Float[Tensor, "b h w c"]:
    """Pad a map, roll it by −`shift` tokens, let `attend` act on its windows, and undo it all.

    `attend` gets the windows, nb n c, and with a shift which of their tokens were neighbours (w n n), else None.
    """
    _, height, width, _ = x.shape
    padded = pad_to_windows(x, size)
    tall, wide = padded.shape[1], padded.shape[2]
    near = None
    if shift:
        padded = padded.roll((-shift, -shift), dims=(1, 2))
        near = neighbours(tall, wide, size, shift=shift, device=x.device)
    out = join_windows(attend(split_windows(padded, size), near), size, padded)
    if shift:
        out = out.roll((shift, shift), dims=(1, 2))
    return crop(out, height, width)


def crop(x: Float[Tensor, "b H W c"], height: int, width: int) -> Float[Tensor, "b h w c"]:
    """Undo a padding to windows."""
    # Not by slices, whose size is the lesser of two: a compiler for all sizes would carry that on from block to block.
    x = x.narrow(1, 0, height).narrow(2, 0, width)
    # With the padded map's strides what follows would be one graph where nothing is padded and another where it is.
    return x.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else x


def neighbours(height: int, width: int, size: int, *, shift: int, device: torch.device) -> Bool[Tensor, "w n n"]:
    """Say which pairs of tokens in each window were neighbours before a map was rolled by −`shift` tokens.

    The roll brings together the map's opposite borders in the last windows of each axis; `size` divides both sides.

    Source: Swin (arXiv:2103.14030) §3.2, figure 4.
    """
    row, column = (_strip(side, size, shift, device) for side in (height, width))
    region = 3 * row[:, None] + column[None, :]  # the nine regions of the rolled map
    region = split_windows(region[None, :, :, None], size)[..., 0]
    return region[:, :, None] == region[:, None, :]


def kinds_of_neighbours(size: int, *, shift: int) -> Bool[Tensor, "kinds n n"]:
    """Return the neighbours in a window of each kind: inside, last of a row, last of a column, the corner.

    Without a shift all windows are of the first kind.
    """
    if not shift:
        return torch.ones(1, size**2, size**2, dtype=torch.bool)
    return neighbours(2 * size, 2 * size, size, shift=shift, device=torch.empty(0).device)


def _strip(side: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Number the tokens of one axis by what the roll did: 0 in place, 1 last window, 2 wrapped around."""
    position = torch.arange(side, device=device)
    return (position >= side - size).long() + (position >= side - shift).long()
