"""Attention inside the square windows of a map, which may be shifted.

On the CPU the tokens of a map are read in the order of its windows, its tiling, without padding the map first. Nothing
is computed for tokens that only pad a window: a layer turns all of them into the same row, which they share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

from semask.ops.reference import runs_on_cpu
from semask.ops.resize import padding_to_multiple

NUM_KINDS = 4
"""Kinds of windows in a shifted map: inside, last of a row, last of a column, and the corner."""
PART_TOKENS = 4096
"""Tokens that attend at a time without gradients: the projections stay in the cache and never cover the whole map.

glibc returns more than 32 MiB to the system every time, page by page; an MLP of less than 512 channels stays below. A
part is one window at least.
"""
MAX_KEPT = 2**17
"""Tokens of the largest map whose tiling is cached: 2 MiB for each that `tile` caches."""
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
    """Return which pairs of tokens in each window were adjacent before a map was rolled by −`shift` tokens.

    The roll brings opposite borders of the map together in the last windows of each axis; `size` divides both sides.

    Source: Swin (arXiv:2103.14030) §3.2, figure 4.
    """
    # rows and columns: 0 in place, 1 in the last window, 2 wrapped
    down, across = (
        (torch.arange(side) >= side - size).long() + (torch.arange(side) >= side - shift).long()
        for side in (height, width)
    )
    # tokens attend within their region
    region = 3 * down[:, None] + across[None, :]  # the nine regions of the rolled map
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


class Part(NamedTuple):
    """Windows of one kind.

    mask_kind: 0 … NUM_KINDS - 1. windows: how many. tokens: those of the map that lie in them, window by window.
    slots: their positions among all the windows' tokens; None where no token is padding.
    """

    mask_kind: int
    windows: int
    tokens: Integer[Tensor, " m"]
    slots: Integer[Tensor, " m"] | None

    def pad_windows(
        self, values: Float[Tensor, "m f"], padding: Float[Tensor, "1 f"] | None, area: int
    ) -> Float[Tensor, "w n f"]:
        """Return the features of the tokens as windows of `area` tokens, `padding` where a window is padded."""
        if self.slots is None:
            return values.view(self.windows, area, -1)
        assert padding is not None
        filled = padding.expand(self.windows * area, -1).index_copy(0, self.slots, values)
        return filled.view(self.windows, area, -1)

    def unpad_windows(self, windows: Float[Tensor, "w n f"]) -> Float[Tensor, "m f"]:
        values = windows.flatten(0, 1)
        return values if self.slots is None else values.index_select(0, self.slots)


class Group(NamedTuple):
    """Parts whose tokens go through token-wise layers together: `tokens` of one part after the other."""

    tokens: Integer[Tensor, " m"]
    parts: tuple[Part, ...]

    @property
    def is_padded(self) -> bool:
        return any(part.slots is not None for part in self.parts)

    def split(self, values: Float[Tensor, "m f"]) -> tuple[Float[Tensor, "_ f"], ...]:
        return tuple(values.split([len(part.tokens) for part in self.parts]))


class Tiling(NamedTuple):
    """All windows of a batch of maps.

    places: of every token, image by image and row by row, its position among the tokens of all groups.
    """

    groups: tuple[Group, ...]
    places: Integer[Tensor, " m"]


def tiling_of(x: Float[Tensor, "b h w c"], size: int, *, shift: int) -> Tiling:
    """Return the tiling of a map by windows of `size` tokens, after a roll by −`shift`, cached for the next map."""
    batch, height, width = x.shape[:3]
    make = tile if batch * height * width <= MAX_KEPT else tile.__wrapped__
    return make(batch, height, width, size, shift=shift, in_parts=not torch.is_grad_enabled())


@lru_cache(maxsize=24)
def tile(batch: int, height: int, width: int, size: int, *, shift: int, in_parts: bool) -> Tiling:
    """Tile maps of height × width tokens; `in_parts` bounds the parts by `PART_TOKENS`, else one holds all of a kind.

    The tiling depends on these numbers alone, so that a cached one fits any weights.
    """
    # Index every token of the padded and rolled map; −1 is padding.
    bottom, right = padding_to_multiple(height, width, size)
    tokens = np.arange(batch * height * width).reshape(batch, height, width)
    padded = np.pad(tokens, ((0, 0), (0, bottom), (0, right)), constant_values=-1)
    rolled = np.roll(padded, (-shift, -shift), axis=(1, 2))
    rows, columns = (height + bottom) // size, (width + right) // size
    windows = rolled.reshape(batch, rows, size, columns, size).swapaxes(2, 3).reshape(-1, size * size)

    # Sort the windows by kind, those with padding apart from those without.
    last_row, last_column = np.arange(rows) == rows - 1, np.arange(columns) == columns - 1
    kinds = np.broadcast_to((2 * last_row[:, None] + last_column) * bool(shift), (batch, rows, columns)).ravel()
    has_padding = (windows < 0).any(axis=1)
    most = max(1, PART_TOKENS // size**2)
    step = most if in_parts else len(windows)
    # A tensor made in inference mode would be unfit for training afterwards.
    with torch.inference_mode(False):
        parts = []
        for kind, is_padded in itertools.product(range(NUM_KINDS), (False, True)):
            chosen = windows[(kinds == kind) & (has_padding == is_padded)]
            # parts that stay in the cache
            for first in range(0, len(chosen), step):
                flat = chosen[first : first + step].ravel()
                slots = np.flatnonzero(flat >= 0)
                own = torch.from_numpy(slots) if is_padded else None
                parts.append(Part(kind, len(flat) // size**2, torch.from_numpy(flat[slots]), own))
        # A large part stays alone: joining the results of several is a copy, which a backward pass keeps.
        groups = []
        while parts:
            # one part at least, and more while they hold no more than `most` windows
            counts = itertools.accumulate(part.windows for part in parts)
            together = max(1, sum(count <= most for count in counts))
            some, parts = parts[:together], parts[together:]
            tokens_of = torch.cat([part.tokens for part in some])
            views = tokens_of.split([len(part.tokens) for part in some])
            groups.append(
                Group(tokens_of, tuple(part._replace(tokens=view) for part, view in zip(some, views, strict=True)))
            )
        # the inverse permutation, from groups back to the map
        order = torch.cat([group.tokens for group in groups])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
    return Tiling(tuple(groups), places)


def run_in_groups(
    tokens: Float[Tensor, "m c"], tiling: Tiling, run: Callable[[Tensor, Group], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """Let `run` act on the tokens of every group and return its results in the tokens' own order.

    Without gradients the results of a group are written to their places at once; with gradients that would have to be
    undone by a copy of all tokens for each group.
    """
    made = (run(tokens.index_select(0, group.tokens), group) for group in tiling.groups)
    if torch.is_grad_enabled():
        return tuple(joined(each).index_select(0, tiling.places) for each in zip(*made, strict=True))
    outs: tuple[Tensor, ...] = ()
    for group, values in zip(tiling.groups, made, strict=True):
        outs = outs or tuple(each.new_empty(len(tokens), each.shape[-1]) for each in values)
        for out, each in zip(outs, values, strict=True):
            out.index_copy_(0, group.tokens, each)
    return outs


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors; a single one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
