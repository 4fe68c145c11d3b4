"""PSPNet: pyramid pooling over the last map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.models.layers.pyramid_pooling import PyramidPooling
from semask.structures import Features, PixelLogits


class PSPNet(nn.Module):
    """The last map beside its averages over four grids, narrowed and classified.

    Source: PSPNet (arXiv:1612.01105) §3.2; 512 channels as in mmsegmentation.
    """

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.bottleneck = ConvNormAct(self.pooling.out_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the last map at its grid."""
        pooled = self.pooling(features.maps[-1])
        return PixelLogits(self.classify(self.dropout(self.bottleneck(pooled))))
