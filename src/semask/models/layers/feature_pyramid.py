"""A feature pyramid of one width: coarse maps flow into finer ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import PlanarConvolution, caffe2_xavier


class FeaturePyramid(nn.Module):
    """Project every map to one width, add the coarser to the finer one from the top down, and smooth each.

    There are neither norms nor activations; coarser maps are resized to their nearest cells.

    Source: Feature Pyramid Networks (arXiv:1612.03144) §3, without additional levels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(caffe2_xavier(nn.Conv2d(width, channels, 1)) for width in in_channels)
        smoothing = (PlanarConvolution(channels, channels, 3, padding=1) for _ in in_channels)
        self.outputs = nn.ModuleList(caffe2_xavier(conv) for conv in smoothing)

    def forward(self, maps: Sequence[Float[Tensor, "b _c _h _w"]]) -> tuple[Tensor, ...]:
        """Return the pyramid, fine to coarse as the maps are."""
        levels = [lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)]
        for finer in reversed(range(len(levels) - 1)):
            size = (levels[finer].shape[-2], levels[finer].shape[-1])
            levels[finer] = levels[finer] + F.interpolate(levels[finer + 1], size=size, mode="nearest")
        return tuple(output(level) for output, level in zip(self.outputs, levels, strict=True))
