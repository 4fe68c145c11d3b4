"""A convolution in two steps: per channel, then across channels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.blocks import ConvNormAct


class SeparableConv(nn.Module):
    """A 3×3 convolution of every channel by itself, then a 1×1 one; BatchNorm and ReLU after both.

    Source: DeepLabV3+ (arXiv:1802.02611) §3.1; norm and activation between the steps as in mmsegmentation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, dilation=dilation, groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Keep the map's size."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out
