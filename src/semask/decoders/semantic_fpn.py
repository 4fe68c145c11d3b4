"""Semantic FPN: each level climbs to stride 4 by convolutions and doublings, the levels are added."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from semask.layers.blocks import ConvNormAct, pixel_classifier
from semask.layers.feature_pyramid import FeaturePyramid
from semask.resample import resize
from semask.structures import Features, PixelLogits


class SemanticFPN(nn.Module):
    """Turn a pyramid into logits at the grid of its finest level.

    Level i has max(1, i) units of 3×3 convolution, BatchNorm and ReLU, each followed by a doubling when i > 0. SeMask
    has no neck: the units read the encoder's maps. Panoptic FPN reads those of a feature pyramid.

    Source: SeMask §3.3 (Panoptic FPN, arXiv:1901.02446, §3); exact order from the authors' code.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        neck: int | None = None,
    ) -> None:
        """`neck` is the width of a feature pyramid between the encoder's maps and the units; None has none."""
        super().__init__()
        self.neck = None if neck is None else FeaturePyramid(in_channels, neck)
        widths = in_channels if neck is None else [neck] * len(in_channels)
        self.branches = nn.ModuleList(climb(width, channels, level) for level, width in enumerate(widths))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        """Decode the maps; the priors are not looked at."""
        maps = features.maps if self.neck is None else self.neck(features.maps)
        total = self.branches[0](maps[0])
        size = (total.shape[-2], total.shape[-1])
        for branch, level in zip(self.branches[1:], maps[1:], strict=True):
            # Into the doubled map, which no backward pass asks for again.
            total = resize(branch(level), size).add_(total)
        return PixelLogits(self.classify(self.dropout(total)))


def climb(in_channels: int, channels: int, level: int) -> nn.Sequential:
    """Return the units that bring level `level` up to level 0; resizing to the exact grid is left to the caller."""
    units: list[nn.Module] = []
    for step in range(max(1, level)):
        units.append(ConvNormAct(in_channels if step == 0 else channels, channels))
        if level > 0:
            units.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*units)
