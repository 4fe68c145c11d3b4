"""SegFormer's head: every level is projected to one width, brought to the finest grid and fused, all by 1×1 layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.resize import convolve_resized, size_of
from semask.structures import Features, PixelLogits

Form = Literal["authors", "mmsegmentation"]


class SegFormer(nn.Module):
    """SegFormer's all-MLP head over a pyramid, with logits at the grid of its finest level.

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
        # project every level to one width
        levels = [branch(level) for branch, level in zip(self.branches, features.maps, strict=True)]
        # upsample, concatenate and fuse
        fused = convolve_resized(
            self.fuse.conv, levels[::-1] if self.coarse_first else levels, size_of(features.maps[0])
        )
        return PixelLogits(self.classify(self.dropout(self.fuse.act(self.fuse.bn(fused)))))
