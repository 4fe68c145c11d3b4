"""OCR: pixels attend to the regions of the classes, which a first, coarse prediction gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct, pixel_classifier
from semask.ops.attention import sdpa_mixed_widths
from semask.ops.resize import resize, size_of
from semask.structures import Features, PixelLogits


class ObjectContext(nn.Module):
    """Attention of every pixel to the regions' features, fused with the pixel's own.

    Source: OCRNet (arXiv:1909.11065) §3.2, object-contextual representations.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        pointwise = partial(ConvNormAct, kernel_size=1)
        self.query = nn.Sequential(pointwise(channels, key_channels), pointwise(key_channels, key_channels))
        self.key = nn.Sequential(pointwise(channels, key_channels), pointwise(key_channels, key_channels))
        self.value = pointwise(channels, key_channels)
        self.project = pointwise(key_channels, channels)
        self.fuse = pointwise(2 * channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"], coarse: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Return the augmented pixels; the softmax of the logits `coarse` over the pixels weighs each region."""
        # object region representations
        pixels = x.flatten(2).transpose(1, 2)
        regions = (coarse.flatten(2).softmax(-1) @ pixels).transpose(1, 2)[..., None]  # b c k 1
        # pixel-region relation
        query, key, value = (
            part.flatten(2).transpose(1, 2) for part in (self.query(x), self.key(regions), self.value(regions))
        )
        context = sdpa_mixed_widths(query, key, value, scale=query.shape[-1] ** -0.5).transpose(1, 2)
        context = self.project(context.unflatten(2, size_of(x)))
        # augmented representations
        return self.fuse(torch.cat([context, x], dim=1))


class OCR(nn.Module):
    """A coarse classification of all maps at the first one's grid, then another with the context of its regions.

    The coarse logits are the auxiliary prediction.

    Source: OCRNet (arXiv:1909.11065) §3.2-3.3; widths as in mmsegmentation.
    """

    has_auxiliary: ClassVar[bool] = True

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, channels: int = 512, dropout: float = 0.0
    ) -> None:
        """`dropout` is before the final classifier alone; keys are half as wide as `channels`."""
        super().__init__()
        width = sum(in_channels)
        self.coarse = ConvNormAct(width, width, kernel_size=1)
        self.classify_coarse = pixel_classifier(width, num_classes)
        self.bottleneck = ConvNormAct(width, channels)
        self.context = ObjectContext(channels, max(1, channels // 2))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = pixel_classifier(channels, num_classes)

    def forward(self, features: Features, *, auxiliary: bool = True) -> PixelLogits:
        maps = torch.cat([resize(level, size_of(features.maps[0])) for level in features.maps], dim=1)
        # soft object regions
        coarse = self.classify_coarse(self.coarse(maps))
        logits = self.classify(self.dropout(self.context(self.bottleneck(maps), coarse)))
        return PixelLogits(logits, (PixelLogits(coarse),) if auxiliary else ())
