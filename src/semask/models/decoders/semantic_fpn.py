"""Semantic FPN: each level climbs to stride 4 by convolutions and doublings, the levels are added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.models.layers.feature_pyramid import FeaturePyramid
from semask.ops.reference import is_plain
from semask.ops.resize import are_equal, resize
from semask.structures import Features, PixelLogits


class SemanticFPN(nn.Module):
    """Turn a pyramid into logits at the grid of its finest level.

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
        """Decode the maps; the priors are not looked at."""
        maps = features.maps if self.neck is None else self.neck(features.maps)
        halves = (branch(level) for branch, level in zip(self.branches[1:], maps[1:], strict=True))
        sums = halves if is_plain() else sums_by_size(halves)
        total = self.branches[0](maps[0])
        size = (total.shape[-2], total.shape[-1])
        for half in sums:
            # Into the doubled map, which no backward pass asks for again.
            total = resize(self.doubling(half), size).add_(total)
        return PixelLogits(self.classify(self.dropout(total)))


def climb(in_channels: int, channels: int, level: int) -> nn.Sequential:
    """Return the units that bring level `level` up to level 1; the last doubling, which is linear, is for their sum."""
    units: list[nn.Module] = [ConvNormAct(in_channels, channels)]
    for _ in range(1, level):
        units.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        units.append(ConvNormAct(channels, channels))
    return nn.Sequential(*units)


def sums_by_size(maps: Iterable[Tensor]) -> list[Tensor]:
    """Add up maps of equal size; a compiler for all sizes knows of none that they are."""
    sums: list[Tensor] = []
    for level in maps:
        if sums and are_equal((sums[-1].shape[-2], sums[-1].shape[-1]), (level.shape[-2], level.shape[-1])):
            sums[-1] = sums[-1] + level
        else:
            sums.append(level)
    return sums
