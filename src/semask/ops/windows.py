"""Attention inside the square windows of a map, which may be shifted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from semask.ops.geometry import padding_to_multiple
from semask.ops.reference import runs_on_cpu
from semask.ops.tiling import Group, joined, run_in_groups, tiling_of

Kinds = int | Tensor | None
"""The kind of all given windows, or of every window of an image, for `window_masks`; None without a shift."""


class WindowLayer(NamedTuple):
    """The steps of a layer that attends inside windows.

    project: tokens to the features of windows, such as queries, keys and values; acts on tokens alone.
    attend: the features in windows (… n f) and the kinds of these windows to the attended windows (… n c).
    output: attended tokens and features to the update of the map and further results; acts on tokens alone.
    norm: what the tokens go through first; the tokens that pad windows are zeros behind it.
    residual: the map's tokens, their norm and the update to the layer's result.
    """

    project: Callable[[Tensor], tuple[Tensor, ...]]
    attend: Callable[[tuple[Tensor, ...], Kinds], Tensor]
    output: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]] = lambda attended, _: (attended,)
    norm: Callable[[Tensor], Tensor] = lambda tokens: tokens
    residual: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda _, __, update: update


def attend_in_windows(
    x: Float[Tensor, "b h w c"], size: int, layer: WindowLayer, *, shift: int = 0
) -> tuple[Tensor, ...]:
    """Run a layer inside the windows of a map, `size` tokens wide, and return its results at the map's size.

    The map is padded with zeros at the right and bottom, then rolled by −`shift` tokens.

    Source: Swin (arXiv:2103.14030) §3.2; padding before the shift as in the official segmentation code.
    """
    if runs_on_cpu(x):
        tiling = tiling_of(x, size, shift=shift)
        results = run_in_groups(x.flatten(0, 2), tiling, lambda tokens, group: _run_group(tokens, group, size, layer))
        return tuple(result.unflatten(0, x.shape[:3]) for result in results)
    batch, height, width, _ = x.shape
    normalised = layer.norm(x)
    padded = pad_to_windows(normalised, size)
    kinds = None
    if shift:
        # cyclic shift
        padded = padded.roll((-shift, -shift), dims=(1, 2))
        last_row, last_column = (
            torch.arange(side // size, device=x.device) == side // size - 1 for side in padded.shape[1:3]
        )
        kinds = (2 * last_row[:, None] + last_column.long()).flatten()
    windows = split_windows(padded, size)
    # attention inside each window
    features = layer.project(windows if kinds is None else windows.unflatten(0, (batch, kinds.shape[0])))
    results = layer.output(layer.attend(features, kinds), features)
    if kinds is not None:
        results = tuple(result.flatten(0, 1) for result in results)
    # reverse the windows, the shift and the padding
    maps = [join_windows(result, size, padded) for result in results]
    if shift:
        maps = [each.roll((shift, shift), dims=(1, 2)) for each in maps]
    update, *others = (crop(each, height, width) for each in maps)
    return layer.residual(x, normalised, update), *others


def _run_group(tokens: Float[Tensor, "m c"], group: Group, size: int, layer: WindowLayer) -> tuple[Tensor, ...]:
    """Run the layer on a group of windows; neither the norm nor the features of the whole map are ever in memory."""
    # token-wise layers, once for all windows; padding is one row
    normalised = layer.norm(tokens)
    features = layer.project(normalised)
    padding = layer.project(normalised.new_zeros(1, tokens.shape[-1])) if group.is_padded else [None] * len(features)
    # attention, windows of one kind at a time
    attended = []
    for part, *own in zip(group.parts, *(group.split(feature) for feature in features), strict=True):
        windows = tuple(part.pad_windows(*pair, size**2) for pair in zip(own, padding, strict=True))
        attended.append(part.unpad_windows(layer.attend(windows, part.mask_kind)))
    update, *others = layer.output(joined(attended), features)
    return layer.residual(tokens, normalised, update), *others


def window_masks(size: int, *, shift: int) -> Bool[Tensor, "kinds n n"]:
    """Return which tokens of a window attend to each other, for each kind of window of a shifted map.

    The kinds are inside, last of a row, last of a column, and the corner; without a shift there is one.
    """
    if not shift:
        return torch.ones(1, size**2, size**2, dtype=torch.bool)
    return shifted_window_mask(2 * size, 2 * size, size, shift=shift)


def shifted_window_mask(height: int, width: int, size: int, *, shift: int) -> Bool[Tensor, "w n n"]:
    """Return which pairs of tokens in each window were neighbours before a map was rolled by −`shift` tokens.

    The roll brings opposite borders of the map together in the last windows of each axis; `size` divides both sides.

    Source: Swin (arXiv:2103.14030) §3.2, figure 4.
    """

    def strips(side: int) -> Tensor:
        position = torch.arange(side)
        return (position >= side - size).long() + (position >= side - shift).long()  # in place, last window, wrapped

    # tokens attend within their region
    region = 3 * strips(height)[:, None] + strips(width)[None, :]  # the nine regions of the rolled map
    region = split_windows(region[None, :, :, None], size)[..., 0]
    return region[:, :, None] == region[:, None, :]


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


def crop(x: Float[Tensor, "b H W c"], height: int, width: int) -> Float[Tensor, "b h w c"]:
    """Undo a padding to windows."""
    # Not by slices, whose size is the lesser of two: a compiler for all sizes would carry that on from block to block.
    x = x.narrow(1, 0, height).narrow(2, 0, width)
    # With the padded map's strides what follows would be one graph where nothing is padded and another where it is.
    return x.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else x
