"""PSANet: point-wise spatial attention over the last map, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.resize import resize, size_of
from semask.structures import Features, PixelLogits


class PSANet(nn.Module):
    """Point-wise spatial attention that collects and one that distributes, fused with the map.

    Source: PSANet (Zhao et al., ECCV 2018) §3.3; the rim of zeros before the projection as in mmsegmentation.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        window_size: int,
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        """`window_size` [cells of the halved map] bounds how far attention reaches: see PointWiseSpatialAttention."""
        super().__init__()
        width = in_channels[-1]
        self.collect = PointWiseSpatialAttention(width, channels, window_size=window_size, direction="collect")
        self.distribute = PointWiseSpatialAttention(width, channels, window_size=window_size, direction="distribute")
        self.project = ConvNormAct(2 * channels, width, kernel_size=1)
        self.bottleneck = ConvNormAct(2 * width, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        last = features.maps[-1]
        # both directions of attention, at half the size
        mixed = torch.cat([self.collect(last), self.distribute(last)], dim=1)
        mixed = double(self.project(F.pad(mixed, (1, 1, 1, 1))), last)
        # fuse with the encoder's map
        fused = self.bottleneck(torch.cat([last, mixed], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))


class PointWiseSpatialAttention(nn.Module):
    """Attention by a window of scores that every cell of the halved map predicts around itself.

    The window has `window_size`² cells, and its centre is cell (`window_size` - 1) // 2. With "collect" the scores are
    how much the cell takes from those around it, with "distribute" how much it gives to them. Cells beyond the window
    score 0, and take part. So a window fits images of about one size, that of the training crops: twice the halved
    map's side, less one, covers everything. On larger images all cells beyond the window count alike.

    Source: PSANet (Zhao et al., ECCV 2018) §3.2; unreached cells and centre as in the authors' code.
    """

    def __init__(
        self, in_channels: int, channels: int, *, window_size: int, direction: Literal["collect", "distribute"]
    ) -> None:
        """`window_size` [cells of the halved map] is the window's side, `channels` the width of the mixed features."""
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size is a number of cells ≥ 1, got {window_size}")
        self.window_size = window_size
        self.direction = direction
        self.reduce = ConvNormAct(in_channels, channels, kernel_size=1)
        self.hidden = ConvNormAct(channels, channels, kernel_size=1)
        self.scores = nn.Conv2d(channels, window_size**2, 1, bias=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o H W"]:
        reduced = halve(self.reduce(x))
        # attention maps: the predicted windows laid on the whole map
        scores = unfold_windows(self.scores(self.hidden(reduced)), self.window_size)
        if self.direction == "distribute":
            scores = scores.transpose(1, 2)
        return (reduced.flatten(2) @ scores.softmax(dim=1)).unflatten(2, size_of(reduced))


def unfold_windows(windows: Float[Tensor, "b p h w"], window_size: int) -> Float[Tensor, "b n n"]:
    """Lay every cell's window on the map: row (other cell), column (cell); 0 where the window does not reach."""
    height, width = windows.shape[-2], windows.shape[-1]
    # Where in the window of a cell (column) another cell (row) lies, along each axis.
    row, column = (
        torch.arange(size, device=windows.device)[:, None]
        - torch.arange(size, device=windows.device)
        + (window_size - 1) // 2
        for size in (height, width)
    )
    inside = (row >= 0) & (row < window_size)
    inside = inside[:, None, :, None] & ((column >= 0) & (column < window_size))[None, :, None, :]
    place = window_size * row.clamp(0, window_size - 1)[:, None, :, None]
    place = place + column.clamp(0, window_size - 1)[None, :, None, :]  # other row, other column, row, column
    scores = windows.gather(1, place.flatten(0, 1).expand(windows.shape[0], -1, -1, -1))
    return (scores * inside.flatten(0, 1)).flatten(2)


def halve(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
    """Halve a map bilinearly: onto every second cell if both sides are odd, else onto n // 2 cells (at least 1)."""
    height, width = size_of(x)
    if torch.compiler.is_exporting():
        odd = (height % 2) * (width % 2)
        tall, wide = (torch.sym_max(1, (side + odd) // 2) for side in (height, width))
        return _resize_by_products(x, (tall, wide), odd)
    if aligns_corners(x):
        return F.interpolate(x, size=((height + 1) // 2, (width + 1) // 2), mode="bilinear", align_corners=True)
    size = (max(1, height // 2), max(1, width // 2))
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def double(x: Float[Tensor, "b c H W"], like: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h w"]:
    """Undo `halve` of a map of the size of `like`."""
    height, width = size_of(like)
    if torch.compiler.is_exporting():
        return _resize_by_products(x, (height, width), (height % 2) * (width % 2))
    # Two calls: a compiler for all sizes decides where the code branches, and hands on no undecided truth value.
    return resize(x, (height, width), align_corners=True) if aligns_corners(like) else resize(x, (height, width))


def aligns_corners(x: Float[Tensor, "b c h w"]) -> bool:
    """Return whether the corners stay in place when a map is halved and doubled: if both of its sides are odd."""
    return bool(x.shape[-2] % 2 == 1 and x.shape[-1] % 2 == 1)


def _resize_by_products(x: Tensor, size: tuple[Any, Any], aligned: int) -> Tensor:
    """Resize with the corners in place where `aligned` is 1, not 0: numbers in a graph, which cannot branch."""
    matrices = []
    for cells, places in zip(size_of(x), size, strict=True):
        place = torch.arange(places, device=x.device, dtype=torch.float32)
        last: Any = torch.sym_max(1, places - 1)
        kept, moved = place * ((cells - 1) / last), (place + 0.5) * (cells / places) - 0.5
        position = torch.where(torch.full_like(place, aligned) > 0, kept, moved.clamp(min=0))
        # hat functions of the cells, places × cells; beyond the last one it is alone
        distance = position.clamp(max=cells - 1)[:, None] - torch.arange(cells, device=x.device)
        matrices.append((1 - distance.abs()).clamp(min=0))
    down, across = matrices
    return down @ (x @ across.T)
