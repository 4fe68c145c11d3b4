"""Semantic FPN: each level is brought to stride 4 by convolutions and doublings, and the levels are summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import Conv2dNCHW, ConvNormAct, caffe2_xavier, pixel_classifier
from semask.ops.resize import resize, size_of, sum_equal_sizes
from semask.structures import Features, PixelLogits


class SemanticFPN(nn.Module):
    """Semantic FPN over a pyramid, with logits at the grid of its finest level.

    Level i has max(1, i) units of 3×3 convolution, BatchNorm and ReLU, each followed by a doubling when i > 0; those
    that double to the same grid are added up before. SeMask has no neck: the units read the encoder's maps. Panoptic
    FPN reads those of a feature pyramid.

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
        self.doubling = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features) -> PixelLogits:
        maps = features.maps if self.neck is None else self.neck(features.maps)
        total = self.branches[0](maps[0])
        # bring every coarser level up to half the finest grid
        halves = (branch(level) for branch, level in zip(self.branches[1:], maps[1:], strict=True))
        # double and sum
        for half in sum_equal_sizes(halves):
            # In place, into the doubled map, which no backward pass reads.
            total = resize(self.doubling(half), size_of(total)).add_(total)
        return PixelLogits(self.classify(self.dropout(total)))


def climb(in_channels: int, channels: int, level: int) -> nn.Sequential:
    """Return the units that bring level `level` up to level 1; the last doubling comes after the sum."""
    units: list[nn.Module] = [ConvNormAct(in_channels, channels)]
    for _ in range(1, level):
        units.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        units.append(ConvNormAct(channels, channels))
    return nn.Sequential(*units)


class FeaturePyramid(nn.Module):
    """Maps projected to one width, the coarser added to the finer one from the top down, and each smoothed.

    There are neither norms nor activations; coarser maps are resized to their nearest cells.

    Source: Feature Pyramid Networks (arXiv:1612.03144) §3, without additional levels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(caffe2_xavier(nn.Conv2d(width, channels, 1)) for width in in_channels)
        smoothing = (Conv2dNCHW(channels, channels, 3, padding=1) for _ in in_channels)
        self.outputs = nn.ModuleList(caffe2_xavier(conv) for conv in smoothing)

    def forward(self, maps: Sequence[Float[Tensor, "b _c _h _w"]]) -> tuple[Tensor, ...]:
        """Return the pyramid, fine to coarse as the maps are."""
        # lateral connections
        levels = [lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)]
        # top-down pathway
        for finer in reversed(range(len(levels) - 1)):
            size = size_of(levels[finer])
            levels[finer] = levels[finer] + F.interpolate(levels[finer + 1], size=size, mode="nearest")
        return tuple(output(level) for output, level in zip(self.outputs, levels, strict=True))
