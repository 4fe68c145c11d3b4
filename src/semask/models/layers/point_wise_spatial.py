"""Point-wise spatial attention: every cell predicts how much it collects from, or gives to, cells around it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct
from semask.ops.resize import resize


class PointWiseSpatialAttention(nn.Module):
    """Predict at every cell of the halved map a window of scores around it, and mix the cells by their softmax.

    The window has `window_size`² cells, and its centre is cell (`window_size` - 1) // 2. With "collect" the scores are
    how much the cell takes from those around it, with "distribute" how much it gives to them. Cells of the map that
    the window does not reach score 0, and take part. So a window is for images of about one size, that of the training
    crops: twice the halved map's side, less one, sees everything. Larger images are taken as well, but beyond the
    window all cells count alike.

    Source: PSANet (Zhao et al., ECCV 2018) §3.2; unreached cells and centre as in the authors' code.
    """

    def __init__(
        self, in_channels: int, channels: int, *, window_size: int, direction: Literal["collect", "distribute"]
    ) -> None:
        """`window_size` [cells of the halved map] is the window's side, `channels` the width of what is mixed."""
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size is a number of cells ≥ 1, got {window_size}")
        self.window_size = window_size
        self.direction = direction
        self.reduce = ConvNormAct(in_channels, channels, kernel_size=1)
        self.hidden = ConvNormAct(channels, channels, kernel_size=1)
        self.scores = nn.Conv2d(channels, window_size**2, 1, bias=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o H W"]:
        """Return the mixed map at half the size, see `halve`."""
        reduced = halve(self.reduce(x))
        size = (reduced.shape[-2], reduced.shape[-1])
        scores = unfold_windows(self.scores(self.hidden(reduced)), self.window_size)
        if self.direction == "distribute":
            scores = scores.transpose(1, 2)
        mixed: Tensor = (reduced.flatten(2) @ scores.softmax(dim=1)).unflatten(2, size)
        return mixed


def unfold_windows(windows: Float[Tensor, "b p h w"], window_size: int) -> Float[Tensor, "b n n"]:
    """Lay every cell's window on the map: row (other cell), column (cell); 0 where the window does not reach."""
    height, width = windows.shape[-2], windows.shape[-1]
    row, column = (_steps(size, window_size, windows.device) for size in (height, width))  # other, cell
    inside = (row >= 0) & (row < window_size)
    inside = inside[:, None, :, None] & ((column >= 0) & (column < window_size))[None, :, None, :]
    place = window_size * row.clamp(0, window_size - 1)[:, None, :, None]
    place = place + column.clamp(0, window_size - 1)[None, :, None, :]  # other row, other column, row, column
    scores = windows.gather(1, place.flatten(0, 1).expand(windows.shape[0], -1, -1, -1))
    return (scores * inside.flatten(0, 1)).flatten(2)


def halve(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
    """Halve a map bilinearly: onto every second cell if both sides are odd, else onto n // 2 cells (at least 1)."""
    height, width = x.shape[-2], x.shape[-1]
    if aligns_corners(x):
        return F.interpolate(x, size=((height + 1) // 2, (width + 1) // 2), mode="bilinear", align_corners=True)
    size = (max(1, height // 2), max(1, width // 2))
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def double(x: Float[Tensor, "b c H W"], like: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h w"]:
    """Bring what was made of `like` halved back to its size."""
    size = (like.shape[-2], like.shape[-1])
    # Two calls: a compiler for all sizes decides where the code branches, and hands on no undecided truth value.
    return resize(x, size, align_corners=True) if aligns_corners(like) else resize(x, size)


def aligns_corners(x: Float[Tensor, "b c h w"]) -> bool:
    """Say whether the corners stay in place when a map is halved and doubled: if both of its sides are odd.

    An exported model with dynamic sizes must know that from their multiples: an image of multiples of 16 px has even
    maps at stride 8.
    """
    return bool(x.shape[-2] % 2 == 1 and x.shape[-1] % 2 == 1)


def _steps(size: int, window_size: int, device: torch.device) -> Tensor:
    """Return where in the window of a cell (column) another cell (row) lies, along one axis."""
    position = torch.arange(size, device=device)
    return position[:, None] - position[None, :] + (window_size - 1) // 2
