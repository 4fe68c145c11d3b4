"""MaskFormer's pixel decoder: a feature pyramid, from the coarsest map down, whose levels FaPN aligns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from semask.models.layers.blocks import ConvGroupNorm, caffe2_xavier
from semask.structures import Features, PixelFeatures

ALIGN_GROUPS = 8
"""Groups of channels with offsets of their own."""
TAPS = 9
"""Cells of a 3×3 kernel."""


class Level(nn.Module):
    """A lateral projection of a finer map plus the coarser map, smoothed.

    Source: Feature Pyramid Networks (arXiv:1612.03144) §3; norms and activations as in MaskFormer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = ConvGroupNorm(channels, width, kernel_size=1, relu=False)
        self.output = ConvGroupNorm(width, width, kernel_size=3, relu=True)

    def forward(self, fine: Float[Tensor, "b i h w"], coarse: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.output(self.lateral(fine) + coarse)


class FPN(nn.Module):
    """A smoothed coarsest map and three levels built on each other; the finest embeds the pixels.

    With aligned levels this is FaPN's pixel decoder.

    Source: MaskFormer (arXiv:2107.06278) §3.3: 256 channels, nearest-neighbour up-sampling.
    """

    def __init__(self, channels: Sequence[int], levels: Sequence[nn.Module], *, width: int = 256) -> None:
        """`channels` are the encoder's and `levels` one module for each of its maps but the last, fine to coarse."""
        super().__init__()
        self.top = ConvGroupNorm(channels[-1], width, kernel_size=3, relu=True)
        self.levels = nn.ModuleList(levels)
        self.mask_features = caffe2_xavier(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, features: Features) -> PixelFeatures:
        maps = [self.top(features.maps[-1])]
        # top-down pathway
        for level, fine in zip(reversed(self.levels), reversed(features.maps[:-1]), strict=True):
            coarse = F.interpolate(maps[-1], size=fine.shape[-2:], mode="nearest")
            maps.append(level(fine, coarse))
        return PixelFeatures(self.mask_features(maps[-1]), tuple(maps[:-1]))


class FeatureAlign(nn.Module):
    """A modulated deformable convolution of the coarser map, its offsets from both maps; plus the finer map.

    Source: FaPN (arXiv:2108.07058) §3.2; DCNv2 (arXiv:1811.11168); 8 groups of channels with offsets of their own.
    """

    def __init__(self, width: int, *, norm: nn.GroupNorm) -> None:
        """`norm` is that of the level's output: in SeMask's FaPN both places share one."""
        super().__init__()
        self.merge = ConvGroupNorm(2 * width, width, kernel_size=1, relu=False, norm=norm)
        self.offsets = nn.Conv2d(width, ALIGN_GROUPS * 3 * TAPS, 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        bound = (width * TAPS) ** -0.5
        self.weight = nn.Parameter(torch.empty(width, width, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, fine: Float[Tensor, "b c h w"], coarse: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # offsets and modulation from both maps
        led = self.offsets(self.merge(torch.cat((fine, 2 * coarse), dim=1)))
        offsets, strength = led.split((2 * ALIGN_GROUPS * TAPS, ALIGN_GROUPS * TAPS), dim=1)
        # Aligned features, in float32: torchvision has no CPU kernel for half precision.
        parts = (coarse, offsets, self.weight, self.bias, strength.sigmoid())
        source, offsets, weight, bias, mask = (part.float() for part in parts)
        moved = deform_conv2d(source, offsets, weight, bias, padding=1, mask=mask)
        return F.relu(moved).to(coarse.dtype) + fine


class FeatureSelection(nn.Module):
    """Channels weighed by the mean of the whole map, then projected.

    Source: FaPN (arXiv:2108.07058) §3.3. SeMask's FaPN has plain laterals instead.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.attend = caffe2_xavier(nn.Conv2d(channels, channels, 1, bias=False))
        self.project = caffe2_xavier(nn.Conv2d(channels, width, 1, bias=False))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h w"]:
        importance = self.attend(x.mean((-2, -1), keepdim=True)).sigmoid()
        return F.relu(self.project(x + x * importance))


class AlignedLevel(nn.Module):
    """A level of the pyramid with feature alignment; the lateral enters twice, and both norms are one.

    Source: SeMask's authors' code (FaPN and MSFaPN on Mask2Former).
    """

    def __init__(self, channels: int, width: int, *, feature_selection: bool = False) -> None:
        super().__init__()
        self.lateral: nn.Module = (
            FeatureSelection(channels, width)
            if feature_selection
            else ConvGroupNorm(channels, width, kernel_size=1, relu=False)
        )
        self.output = ConvGroupNorm(width, width, kernel_size=3, relu=True)
        self.align = FeatureAlign(width, norm=self.output.norm)

    def forward(self, fine: Float[Tensor, "b i h w"], coarse: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        lateral = self.lateral(fine)
        return self.output(self.align(lateral, lateral + coarse))
