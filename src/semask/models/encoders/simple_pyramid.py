"""A pyramid of four maps from a plain ViT's last one, for decoders and semantic layers that need strides."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.encoders.hierarchical import apply_semantic_layer
from semask.models.encoders.vit import ViTEncoder
from semask.models.layers.blocks import Conv2dNCHW, MapNorm
from semask.structures import Features

WIDTH = 256
"""Channels of every level."""
DOUBLINGS = (2, 1, 0, -1)
"""Doublings of the ViT map's sides, per level, fine to coarse."""


class SimplePyramidEncoder(nn.Module):
    """A ViT of patches of P px, and maps at strides P/4, P/2, P and 2P from its one map, side by side.

    Strides are fractions where they must be: patches of 14 px give 3.5, 7, 14 and 28 px. A semantic layer follows each
    level and masks the map that leaves the encoder there; no next stage reads it.

    Source: ViTDet (arXiv:2203.16527) §3, the simple feature pyramid.
    """

    num_checkpointable: ClassVar[int] = 1

    def __init__(self, plain: ViTEncoder, *, semantic: Sequence[nn.Module] = ()) -> None:
        """`plain` gives one map; `semantic` holds four modules or none."""
        super().__init__()
        (channels,), (patch,) = plain.channels, plain.strides
        self.plain = plain
        self.levels = nn.ModuleList(PyramidLevel(channels, doublings) for doublings in DOUBLINGS)
        self.semantic = nn.ModuleList(semantic)
        self.channels: tuple[int, ...] = (WIDTH,) * len(self.levels)
        strides = [patch / 2.0**doublings for doublings in DOUBLINGS]
        self.strides: tuple[int | float, ...] = tuple(int(step) if step.is_integer() else step for step in strides)
        self.size_multiple = 2 * patch

    @property
    def checkpointed_stages(self) -> frozenset[int]:
        return self.plain.checkpointed_stages

    @checkpointed_stages.setter
    def checkpointed_stages(self, stages: frozenset[int]) -> None:
        self.plain.checkpointed_stages = stages

    def forward(self, images: Float[Tensor, "b c H W"]) -> Features:
        """Encode normalised images whose sides are multiples of two patches."""
        (last,) = self.plain(images).maps
        # levels side by side, each with its semantic layer
        maps: list[Tensor] = []
        priors: list[Tensor] = []
        for stage, level in enumerate(self.levels):
            x = level(last)
            maps.append(apply_semantic_layer(self.semantic[stage], x, priors=priors) if self.semantic else x)
        return Features(tuple(maps), tuple(priors))


class PyramidLevel(nn.Module):
    """A resized map, brought to the pyramid's width by a 1×1 and a 3×3 convolution, each with LayerNorm."""

    def __init__(self, channels: int, doublings: int) -> None:
        """`doublings` of the map's side: 2, 1, 0, or −1 to halve it."""
        super().__init__()
        # every doubling halves the width
        widths = [channels // 2**step for step in range(max(doublings, 0) + 1)]
        self.resize = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.between_norm = MapNorm(widths[1]) if doublings > 1 else None
        self.halve = nn.MaxPool2d(2) if doublings < 0 else nn.Identity()
        self.reduce = nn.Conv2d(widths[-1], WIDTH, 1, bias=False)
        self.reduce_norm = MapNorm(WIDTH)
        self.smooth = Conv2dNCHW(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.smooth_norm = MapNorm(WIDTH)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        # max pooling, or one or two transposed convolutions
        x = self.halve(x)
        for step, double in enumerate(self.resize):
            if step and self.between_norm is not None:
                x = F.gelu(self.between_norm(x))
            x = double(x)
        # 1×1, then 3×3 convolution
        x = self.reduce_norm(self.reduce(x))
        return self.smooth_norm(self.smooth(x))
