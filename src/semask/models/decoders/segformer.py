"""SegFormer's head: every level is projected to one width, brought to the finest grid and fused, all by 1×1 layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.reference import is_plain
from semask.ops.resize import resize
from semask.structures import Features, PixelLogits

Form = Literal["authors", "mmsegmentation"]


class SegFormer(nn.Module):
    """Turn a pyramid into logits at the grid of its finest level.

    The authors' form projects a level by a linear layer and concatenates the coarsest level first; mmsegmentation's has
    a BatchNorm and a ReLU after every projection and the finest level first. They are two functions: neither can hold
    the other's weights.

    Source: SegFormer (arXiv:2105.15203) §3.2, eq. 4; authors' code; mmsegmentation 1.2.2.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        form: Form = "authors",
    ) -> None:
        super().__init__()
        self.coarse_first = form == "authors"
        self.branches = nn.ModuleList(
            nn.Conv2d(width, channels, 1) if form == "authors" else ConvNormAct(width, channels, kernel_size=1)
            for width in in_channels
        )
        self.fuse = ConvNormAct(len(in_channels) * channels, channels, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the maps; the priors are not looked at."""
        size = (features.maps[0].shape[-2], features.maps[0].shape[-1])
        levels = [branch(level) for branch, level in zip(self.branches, features.maps, strict=True)]
        fused = self._fuse_plainly(levels, size) if is_plain() else self._fuse(levels, size)
        return PixelLogits(self.classify(self.dropout(fused)))

    def _fuse_plainly(self, levels: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        resized = [resize(level, size) for level in levels]
        out: Tensor = self.fuse(torch.cat(resized[::-1] if self.coarse_first else resized, dim=1))
        return out

    def _fuse(self, levels: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Fuse each level at its own grid: both steps are linear, and a 1×1 convolution may come before resizing."""
        weights = self.fuse.conv.weight.chunk(len(levels), dim=1)
        total: Tensor | None = None
        for level, weight in zip(levels, weights[::-1] if self.coarse_first else weights, strict=True):
            part = resize(F.conv2d(level, weight), size)
            total = part if total is None else total + part
        out: Tensor = self.fuse.act(self.fuse.bn(total))
        return out
