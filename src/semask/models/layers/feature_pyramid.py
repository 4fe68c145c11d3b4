"""A feature pyramid of one width, by a top-down pathway."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import Conv2dNCHW, caffe2_xavier
from semask.ops.resize import size_of


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
