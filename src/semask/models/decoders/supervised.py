"""A per-pixel decoder with auxiliary heads, which classify earlier maps of the encoder in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from semask.structures import Features, PixelLogits


class Supervised(nn.Module):
    """Add the predictions of auxiliary heads to those of a decoder.

    Source: PSPNet (arXiv:1612.01105) §3.3, deep supervision.
    """

    has_auxiliary: ClassVar[bool] = True

    def __init__(self, main: nn.Module, heads: Sequence[nn.Module], *, levels: Sequence[int]) -> None:
        """`heads[i]` takes the encoder's map `levels[i]`, b c h w, and returns logits, b k h w at a grid of its own."""
        super().__init__()
        if len(heads) != len(levels):
            raise ValueError(f"every auxiliary head reads one map; got {len(heads)} heads and {len(levels)} levels")
        self.main = main
        self.heads = nn.ModuleList(heads)
        self.levels = tuple(levels)

    def forward(self, features: Features, *, auxiliary: bool = True) -> PixelLogits:
        """Decode; the heads run if `auxiliary` predictions are asked for."""
        main: PixelLogits = self.main(features)
        if not auxiliary:
            return main
        heads = zip(self.heads, self.levels, strict=True)
        return PixelLogits(main.logits, tuple(PixelLogits(head(features.maps[level])) for head, level in heads))
