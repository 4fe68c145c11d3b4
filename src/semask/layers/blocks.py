"""Small pieces that several decoders are made of."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; "same" padding for odd kernels.

    Source: SeMask-FPN's head (mmsegmentation's ConvModule): Kaiming-normal fan-out, BatchNorm eps 1e-5, momentum 0.1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Keep the map's size."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out
