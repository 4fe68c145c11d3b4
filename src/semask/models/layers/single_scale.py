"""One map at stride 16 out of whatever an encoder gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.resize import resize

STRIDE = 16
"""Of the map made from a pyramid; that of a ViT's patches in most of Segmenter's models."""


class SingleScale(nn.Module):
    """Make one map of an encoder's maps: a plain encoder's stays as it is, a pyramid is brought to stride 16.

    "last" resizes the coarsest map bilinearly. "fused" projects every map to `width` channels by a 1×1 convolution,
    averages finer ones down and resizes coarser ones up, and adds them.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int | float],
        *,
        source: Literal["last", "fused"] | None,
        width: int | None = None,
    ) -> None:
        """`width` is for "fused" alone, None the coarsest map's; a ValueError tells a pyramid without a source."""
        super().__init__()
        pyramid = len(in_channels) > 1
        if source is not None and not pyramid:
            raise ValueError(
                f"this encoder gives one map already; single_scale {source!r} is for pyramids, say "
                "--model.decoder.single-scale None"
            )
        if pyramid and source is None:
            raise ValueError(
                f"Segmenter's decoders read one map, and this encoder gives {len(in_channels)}; say which with "
                "--model.decoder.single-scale last or fused, or use a plain ViT"
            )
        if pyramid and STRIDE not in strides:
            raise ValueError(f"the encoder has no stage at stride {STRIDE}, only {tuple(strides)}; use another one")
        self.target = list(strides).index(STRIDE) if pyramid else None
        fused = pyramid and source == "fused"
        self.channels = width if fused and width is not None else in_channels[-1]
        self.projections = nn.ModuleList(nn.Conv2d(c, self.channels, 1) for c in in_channels) if fused else None

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """Return the one map, of `channels` channels."""
        if self.target is None:
            return maps[0]
        size = (maps[self.target].shape[-2], maps[self.target].shape[-1])
        if self.projections is None:
            return resize(maps[-1], size)
        levels = [
            F.adaptive_avg_pool2d(projected, size) if level < self.target else resize(projected, size)
            for level, projected in enumerate(p(m) for p, m in zip(self.projections, maps, strict=True))
        ]
        return torch.stack(levels).sum(0)
