"""The fully convolutional decoder, and the small form of it that supervises an earlier map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.structures import Features, PixelLogits


class FCN(nn.Module):
    """Two convolutions over the last map, a third over the map and their result, and a classifier.

    Source: FCN (arXiv:1411.4038) as mmsegmentation builds it over a dilated ResNet.
    """

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNormAct(in_channels[-1], channels), ConvNormAct(channels, channels)])
        self.fuse = ConvNormAct(in_channels[-1] + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the last map at its grid; the others are not looked at."""
        x = last = features.maps[-1]
        for conv in self.convs:
            x = conv(x)
        return PixelLogits(self.classify(self.dropout(self.fuse(torch.cat([last, x], dim=1)))))


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
        """Return the logits of one map at its grid."""
        out: Tensor = self.classify(self.dropout(self.conv(x)))
        return out
