"""The tokens of a map in the order of its windows: what attention in windows reads, without padding it first.

Nothing is computed for tokens that only pad a window: what a layer makes of them is one row, which all of them share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from semask.ops.geometry import padding_to_multiple
from semask.ops.reference import is_plain

KINDS = 4
"""Of windows in a shifted map: inside, last of a row, last of a column, and the corner; see `neighbours`."""
PART_TOKENS = 4096
"""Tokens that attend at a time where nothing is kept for a backward pass: what they are made into stays in the cache,
and is never there for the whole map. What takes more than 32 MiB glibc asks the system for anew every time, page by
page; an MLP of less than 512 channels stays below. A part is one window at least."""


class Part(NamedTuple):
    """Windows of one kind.

    kind: 0 … KINDS - 1. windows: how many. tokens: those of the map that lie in them, window by window. slots: where
    these stand among all the windows' tokens; None where no token is padding.
    """

    kind: int
    windows: int
    tokens: Integer[Tensor, " m"]
    slots: Integer[Tensor, " m"] | None

    def fill(
        self, values: Float[Tensor, "m f"], padding: Float[Tensor, "1 f"] | None, area: int
    ) -> Float[Tensor, "w n f"]:
        """Return what was made of the tokens as windows of `area` tokens, `padding` where a window is padded."""
        if self.slots is None:
            return values.view(self.windows, area, -1)
        assert padding is not None
        filled = padding.expand(self.windows * area, -1).index_copy(0, self.slots, values)
        return filled.view(self.windows, area, -1)

    def drain(self, windows: Float[Tensor, "w n f"]) -> Float[Tensor, "m f"]:
        """Undo `fill`."""
        values = windows.flatten(0, 1)
        return values if self.slots is None else values.index_select(0, self.slots)


class Group(NamedTuple):
    """Parts whose tokens go through linear layers together.

    tokens: those of all parts, one part after the other.
    """

    tokens: Integer[Tensor, " m"]
    parts: tuple[Part, ...]

    def padding(self, layer: Callable[[Tensor], Tensor], tokens: Float[Tensor, "m c"]) -> Float[Tensor, "1 f"] | None:
        """Return what `layer` makes of a token that only pads a window, a zero; None where no window is padded."""
        if all(part.slots is None for part in self.parts):
            return None
        return layer(tokens.new_zeros(1, tokens.shape[-1]))

    def shares(self, values: Float[Tensor, "m f"]) -> Iterator[tuple[Part, Float[Tensor, "_ f"]]]:
        """Give every part with what was made of its tokens."""
        return zip(self.parts, values.split([len(part.tokens) for part in self.parts]), strict=True)


class Tiling(NamedTuple):
    """All windows of a batch of maps.

    places: of every token, image by image and row by row, where it stands among the tokens of all groups.
    """

    groups: tuple[Group, ...]
    places: Integer[Tensor, " m"]


def is_tiled(x: Tensor) -> bool:
    """Say whether a map's windows are to be made by a tiling: on the processor, run as it is written.

    A compiler makes as much of the plain steps, and an exported graph should hold no table for one size. A batch of no
    image has no windows.
    """
    if is_plain() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and type(x) is Tensor and x.numel() > 0


def tiling_of(x: Float[Tensor, "b h w c"], size: int, *, shift: int) -> Tiling:
    """Return the tiling of a map by windows of `size` tokens, after a roll by −`shift`; it is kept for the next map."""
    batch, height, width = x.shape[:3]
    make = tile if batch * height * width <= MAX_KEPT else tile.__wrapped__
    return make(batch, height, width, size, shift=shift, in_parts=not torch.is_grad_enabled())


MAX_KEPT = 2**17
"""Tokens of the largest map whose tiling is kept: 2 MiB for each of those that `tile` remembers."""


@lru_cache(maxsize=24)
def tile(batch: int, height: int, width: int, size: int, *, shift: int, in_parts: bool) -> Tiling:
    """Tile maps of height × width tokens; `in_parts` bounds the parts by `PART_TOKENS`, else one holds all of a kind.

    All is a matter of these numbers alone, so that what is remembered fits any weights.
    """
    bottom, right = padding_to_multiple(height, width, size)
    tokens = np.arange(batch * height * width).reshape(batch, height, width)
    padded = np.pad(tokens, ((0, 0), (0, bottom), (0, right)), constant_values=-1)
    rolled = np.roll(padded, (-shift, -shift), axis=(1, 2))
    rows, columns = (height + bottom) // size, (width + right) // size
    windows = rolled.reshape(batch, rows, size, columns, size).swapaxes(2, 3).reshape(-1, size * size)
    kinds = np.broadcast_to(_kinds(rows, columns) * bool(shift), (batch, rows, columns)).ravel()
    most = max(1, PART_TOKENS // size**2)
    # A tensor made in inference mode would be unfit for training afterwards.
    with torch.inference_mode(False):
        parts = [_part(kind, some) for kind, some in _runs(windows, kinds, most if in_parts else len(windows))]
        # A large part stays alone: to put what several have made together is a copy, which a backward pass keeps.
        groups = tuple(_group(some) for some in _gather(parts, most))
        order = torch.cat([group.tokens for group in groups])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
    return Tiling(groups, places)


def _kinds(rows: int, columns: int) -> NDArray[np.int64]:
    out: NDArray[np.int64] = 2 * (np.arange(rows) == rows - 1)[:, None] + (np.arange(columns) == columns - 1)
    return out


def _runs(windows: NDArray[np.int64], kinds: NDArray[np.int64], most: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Give windows of one kind, `most` at a time, those with padding apart from those without."""
    padded = (windows < 0).any(axis=1)
    for kind, with_padding in itertools.product(range(KINDS), (False, True)):
        chosen = windows[(kinds == kind) & (padded == with_padding)]
        for first in range(0, len(chosen), most):
            yield kind, chosen[first : first + most]


def _part(kind: int, windows: NDArray[np.int64]) -> Part:
    flat = windows.ravel()
    slots = np.flatnonzero(flat >= 0)
    whole = len(slots) == len(flat)
    return Part(kind, len(windows), torch.from_numpy(flat[slots]), None if whole else torch.from_numpy(slots))


def _gather(parts: Sequence[Part], most: int) -> Iterator[list[Part]]:
    """Give parts one after the other, together while they hold no more than `most` windows."""
    together: list[Part] = []
    for part in parts:
        if together and sum(each.windows for each in together) + part.windows > most:
            yield together
            together = []
        together.append(part)
    yield together


def _group(parts: Sequence[Part]) -> Group:
    tokens = torch.cat([part.tokens for part in parts])
    views = tokens.split([len(part.tokens) for part in parts])
    return Group(tokens, tuple(part._replace(tokens=view) for part, view in zip(parts, views, strict=True)))


def run_in_groups(
    tokens: Float[Tensor, "m c"], tiling: Tiling, attend: Callable[[Tensor, Group], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """Let `attend` act on the tokens of every group and return what it makes of them, in the tokens' own order.

    Without a backward pass every group's is written to its places at once; to undo that, all would be copied for each.
    """
    made = (attend(tokens.index_select(0, group.tokens), group) for group in tiling.groups)
    if torch.is_grad_enabled():
        return tuple(joined(each).index_select(0, tiling.places) for each in zip(*made, strict=True))
    outs: tuple[Tensor, ...] = ()
    for group, values in zip(tiling.groups, made, strict=True):
        outs = outs or tuple(each.new_empty(len(tokens), each.shape[-1]) for each in values)
        for out, each in zip(outs, values, strict=True):
            out.index_copy_(0, group.tokens, each)
    return outs


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one; a single one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
