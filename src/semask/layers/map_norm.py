"""LayerNorm for maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class MapNorm(nn.LayerNorm):
    """Normalise every pixel of a map over its channels, eps 1e-6.

    Source: SETR's heads (mmsegmentation) and ViTDet's pyramid (arXiv:2203.16527) §3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keep the map's size."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
