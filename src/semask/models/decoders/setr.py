"""SETR's decoders: naïve upsampling, progressive upsampling (PUP) and multi-level aggregation (MLA)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, MapNorm, pixel_classifier
from semask.structures import Features, PixelLogits

WIDTH = 256
"""Of a head's maps, in every form."""
MLA_WIDTH = 128
"""Of each branch of MLA."""


class SETR(nn.Module):
    """A head over the last map.

    Source: SETR (arXiv:2012.15840) §3.3, naïve upsampling and PUP.
    """

    def __init__(self, head: SETRHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Features) -> PixelLogits:
        return PixelLogits(self.head(features.maps[-1]))


class SETRHead(nn.Module):
    """LayerNorm, steps of convolution and enlargement, and a classifier.

    Source: SETR §3.3; sizes of kernels and steps as in mmsegmentation.
    """

    def __init__(
        self, in_channels: int, *, num_classes: int, kernel_size: int, steps: int, factor: int, channels: int = WIDTH
    ) -> None:
        """Each of the `steps` enlarges the map by `factor`, after a convolution with ReLU."""
        super().__init__()
        self.norm = MapNorm(in_channels)
        widths = [in_channels] + [channels] * steps
        self.steps = nn.Sequential(
            *(
                nn.Sequential(ConvNormAct(fine, channels, kernel_size=kernel_size), _enlarge(factor))
                for fine in widths[:-1]
            )
        )
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k H W"]:
        """Return the logits, factor^steps as fine as the map."""
        return self.classify(self.steps(self.norm(x)))


class SETRMLA(nn.Module):
    """Maps summed from the deepest to the shallowest; every sum is refined, and all are classified together.

    With `auxiliary` heads, each refined sum is classified as well.

    Source: SETR §3.3, MLA; order and sizes as in mmsegmentation.
    """

    has_auxiliary: ClassVar[bool] = True

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = WIDTH, auxiliary: bool = True
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(MapNorm(width), ConvNormAct(width, channels, kernel_size=1)) for width in in_channels
        )
        self.refine = nn.ModuleList(ConvNormAct(channels, channels) for _ in in_channels)
        self.branches = nn.ModuleList(
            nn.Sequential(ConvNormAct(channels, MLA_WIDTH), ConvNormAct(MLA_WIDTH, MLA_WIDTH), _enlarge(4))
            for _ in in_channels
        )
        self.classify = pixel_classifier(len(in_channels) * MLA_WIDTH, num_classes)
        self.heads = nn.ModuleList(pixel_classifier(channels, num_classes) for _ in in_channels if auxiliary)

    def forward(self, features: Features, *, auxiliary: bool = True) -> PixelLogits:
        """Decode maps of one stride; `auxiliary` predictions, deepest first, are made if there are heads for them."""
        # top-down aggregation
        laterals = [lateral(level) for lateral, level in zip(self.laterals, features.maps, strict=True)]
        sums = accumulate(reversed(laterals))
        refined = [refine(total) for refine, total in zip(self.refine, sums, strict=True)]
        # enlarge, concatenate and classify
        branches = [branch(level) for branch, level in zip(self.branches, refined, strict=True)]
        logits = self.classify(torch.cat(branches, dim=1))
        if not auxiliary:
            return PixelLogits(logits)
        pairs = zip(self.heads, refined, strict=False)
        return PixelLogits(logits, tuple(PixelLogits(head(level)) for head, level in pairs))


def _enlarge(factor: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
