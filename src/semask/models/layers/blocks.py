"""Convolution blocks of the decoders: convolution, norm and activation."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.memory import to_nchw
from semask.ops.resize import divide_up

NUM_GROUPS = 32
"""Groups of every GroupNorm in MaskFormer and Mask2Former."""


class Conv2dNCHW(nn.Conv2d):
    """A convolution whose training reads large maps channel by channel; see `to_nchw`."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o _h _w"]:
        return super().forward(to_nchw(x, self))


class SameConvolution(nn.Conv2d):
    """timm's convolution with TensorFlow's "same" padding, in divisions that a compiler for all sizes can follow."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o _h _w"]:
        return super().forward(F.pad(x, self.borders(x)))

    def borders(self, x: Float[Tensor, "b i h w"]) -> tuple[int, int, int, int]:
        """Return the widths of the padding at the left, right, top and bottom, the odd one at the right and bottom."""
        bounds = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        tall, wide = (
            max((divide_up(side, stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, kernel, stride, dilation in bounds
        )
        return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; "same" padding for odd kernels.

    Source: SeMask-FPN's head (mmsegmentation's ConvModule): Kaiming-normal fan-out, BatchNorm eps 1e-5, momentum 0.1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = Conv2dNCHW(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        return self.act(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """A 3×3 depthwise convolution, then a 1×1 one; BatchNorm and ReLU after both.

    Source: DeepLabV3+ (arXiv:1802.02611) §3.1; norm and activation between the steps as in mmsegmentation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, dilation=dilation, groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        # per channel, then across channels
        return self.pointwise(self.depthwise(x))


def pixel_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Return the 1×1 convolution from features to class logits, initialised as in mmsegmentation."""
    classify = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(classify.weight, std=0.01)
    assert classify.bias is not None
    nn.init.zeros_(classify.bias)
    return classify


class ConvGroupNorm(nn.Module):
    """Convolution without bias, GroupNorm, and with `relu` a ReLU; "same" padding for odd kernels.

    Source: MaskFormer's pixel decoder: 32 groups, Kaiming-uniform with a = 1 (Caffe2's Xavier).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, relu: bool, norm: nn.GroupNorm | None = None
    ) -> None:
        """`norm` replaces a new one, for layers that share theirs."""
        super().__init__()
        self.conv = Conv2dNCHW(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = group_norm(out_channels) if norm is None else norm
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()
        caffe2_xavier(self.conv)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        return self.act(self.norm(self.conv(x)))


def group_norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm of 32 groups.

    Raises:
        ValueError: The groups would not have two channels or more each; a map of one pixel could not be normalised.
    """
    if channels % NUM_GROUPS or channels == NUM_GROUPS:
        raise ValueError(
            f"{NUM_GROUPS} groups of two channels or more cannot share {channels} channels; give a width that is a "
            f"multiple of {NUM_GROUPS}, at least {2 * NUM_GROUPS}"
        )
    return nn.GroupNorm(NUM_GROUPS, channels)


def caffe2_xavier(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialise a convolution as detectron2 does: Kaiming-uniform with a = 1, no bias."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class MapNorm(nn.LayerNorm):
    """LayerNorm of every pixel of a map over its channels, eps 1e-6.

    Source: SETR's heads (mmsegmentation) and ViTDet's pyramid (arXiv:2203.16527) §3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
