"""FCN: the fully convolutional decoder, and its small form as an auxiliary head of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.structures import Features, PixelLogits


class FCN(nn.Module):
    """Two convolutions over the last map, a third over the map and their result, and a classifier.

    `attention`, built for a width, acts `recurrence` times between the two, with the same weights.

    Source: FCN (arXiv:1411.4038) as mmsegmentation builds it over a dilated ResNet.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.1,
        attention: Callable[[int], nn.Module] = nn.Identity,
        recurrence: int = 1,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNormAct(in_channels[-1], channels), ConvNormAct(channels, channels)])
        self.attention, self.recurrence = attention(channels), recurrence
        self.fuse = ConvNormAct(in_channels[-1] + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        last = features.maps[-1]
        x = self.convs[0](last)
        for _ in range(self.recurrence):
            x = self.attention(x)
        # fuse with the encoder's map
        fused = self.fuse(torch.cat([last, self.convs[1](x)], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))


class WithAuxiliaryHeads(nn.Module):
    """A per-pixel decoder with auxiliary heads.

    Source: PSPNet (arXiv:1612.01105) §3.3, deep supervision.
    """

    has_auxiliary: ClassVar[bool] = True

    def __init__(self, main: nn.Module, heads: Sequence[nn.Module], *, levels: Sequence[int]) -> None:
        """`heads[i]` takes the encoder's map `levels[i]`, b c h w, and returns logits, b k h w at a grid of its own."""
        super().__init__()
        if len(heads) != len(levels):
            raise ValueError(f"every auxiliary head reads one map; got {len(heads)} heads and {len(levels)} levels")
        self.main = main
        self.heads = nn.ModuleList(heads)
        self.levels = tuple(levels)

    def forward(self, features: Features, *, auxiliary: bool = True) -> PixelLogits:
        main: PixelLogits = self.main(features)
        if not auxiliary:
            return main
        heads = zip(self.heads, self.levels, strict=True)
        return PixelLogits(main.logits, tuple(PixelLogits(head(features.maps[level])) for head, level in heads))


class FCNHead(nn.Module):
    """One 3×3 convolution and a classifier, for an auxiliary prediction.

    Source: PSPNet (arXiv:1612.01105) §3.3; width and dropout as in mmsegmentation.
    """

    def __init__(self, in_channels: int, *, num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k h w"]:
        return self.classify(self.dropout(self.conv(x)))
