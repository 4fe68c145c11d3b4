"""UPerNet: a feature pyramid whose top is pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from semask.models.decoders.pspnet import PyramidPooling
from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.resize import concatenate_resized, resize, size_of
from semask.structures import Features, PixelLogits


class UPerNet(nn.Module):
    """A feature pyramid over a pooled last map, all of whose levels are classified together at the first map's grid.

    Source: UPerNet (arXiv:1807.10221) §3.1; norms and widths as in mmsegmentation and Swin.
    """

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.bottleneck = ConvNormAct(self.pooling.out_channels, channels)
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, kernel_size=1) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels) for _ in in_channels[:-1])
        self.fuse = ConvNormAct(len(in_channels) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        # lateral connections; the top is pyramid pooling
        levels = [lateral(level) for lateral, level in zip(self.laterals, features.maps[:-1], strict=True)]
        levels.append(self.bottleneck(self.pooling(features.maps[-1])))
        # top-down pathway
        for finer in reversed(range(len(levels) - 1)):
            levels[finer] = levels[finer] + resize(levels[finer + 1], size_of(levels[finer]))
        # smooth, bring to the finest grid, concatenate and fuse; a level is given up once it is smooth
        size = size_of(levels[0])
        smooth = (output(levels.pop(0)) for output in (*self.outputs, nn.Identity()))
        fused = self.fuse(concatenate_resized(smooth, size, channels=self.fuse.conv.in_channels))
        return PixelLogits(self.classify(self.dropout(fused)))
