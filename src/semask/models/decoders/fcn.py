"""FCN: the fully convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

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
        """Decode the last map at its grid."""
        x = last = features.maps[-1]
        for conv in self.convs:
            x = conv(x)
        # fuse with the encoder's map
        fused = self.fuse(torch.cat([last, x], dim=1))
        return PixelLogits(self.classify(self.dropout(fused)))
