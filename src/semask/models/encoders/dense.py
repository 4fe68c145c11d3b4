"""timm's Swins, made for classification, as those of dense prediction: images of any size, windows padded first.

And timm's sizes written so that a compiler for all sizes can follow them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Conv2dSame, PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.swin_transformer_v2 import PatchMerging as PatchMergingV2
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from semask.models.encoders.swin import DenseSwinBlock
from semask.models.encoders.swin_v2 import DenseSwinV2Block
from semask.ops.geometry import divide_up, padding_to_multiple
from semask.ops.windows import pad_to_windows


class DensePatchEmbedding(nn.Module):
    """Make one token of every patch of an image, padded at the right and bottom to whole patches.

    As timm's, but how many patches there are is a division rounded up (`divide_up`): a compiler for all sizes follows
    that through a whole network, and timm's remainders it does not.
    """

    def __init__(self, embedding: PatchEmbed) -> None:
        super().__init__()
        self.patch_size = int(embedding.patch_size[0])
        self.proj = embedding.proj
        self.norm = embedding.norm

    def forward(self, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b h w c"]:
        """Return ⌈H / patch⌉ × ⌈W / patch⌉ tokens."""
        out: Tensor = self.norm(self.proj(pad_to_multiple(images, self.patch_size)).permute(0, 2, 3, 1))
        return out


class DensePatchMerging(nn.Module):
    """Make one token of every 2×2, padded where a side is odd: as timm's, but see `DensePatchEmbedding`."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.norm = merging.norm
        self.reduction = merging.reduction

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j o"]:
        """Return ⌈h / 2⌉ × ⌈w / 2⌉ tokens."""
        out: Tensor = self.reduction(self.norm(side_by_side(x)))
        return out


class DensePatchMergingV2(nn.Module):
    """Swin V2's, which normalises what it has made."""

    def __init__(self, merging: PatchMergingV2) -> None:
        super().__init__()
        self.reduction = merging.reduction
        self.norm = merging.norm

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j o"]:
        """Return ⌈h / 2⌉ × ⌈w / 2⌉ tokens."""
        out: Tensor = self.norm(self.reduction(side_by_side(x)))
        return out


def side_by_side(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j 4*c"]:
    """Put the channels of every 2×2 tokens side by side, zeros where a side is odd."""
    padded = pad_to_windows(x, 2)
    batch, height, width, channels = padded.shape
    return padded.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)


def pad_to_multiple(images: Float[Tensor, "b c H W"], multiple: int) -> Float[Tensor, "b c h w"]:
    """Pad images with zeros at the right and bottom until both sides are divisible by `multiple`."""
    bottom, right = padding_to_multiple(images.shape[-2], images.shape[-1], multiple)
    return F.pad(images, (0, right, 0, bottom))


class SameConvolution(nn.Conv2d):
    """timm's convolution padded as TensorFlow does, ⌈side / stride⌉ places; see `DensePatchEmbedding`."""

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o _h _w"]:
        """Pad, the odd one at the right and bottom, then convolve."""
        bounds = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        tall, wide = (
            max((divide_up(side, stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, kernel, stride, dilation in bounds
        )
        padded = F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


DENSE: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    PatchEmbed: DensePatchEmbedding,
    PatchMerging: DensePatchMerging,
    PatchMergingV2: DensePatchMergingV2,
    SwinTransformerBlock: DenseSwinBlock,
    SwinTransformerV2Block: DenseSwinV2Block,
}
"""timm's modules and what takes over their weights."""


def divide_sizes(network: nn.Module) -> None:
    """Let convolutions padded as TensorFlow does reckon with divisions that a compiler for all sizes can follow."""
    for module in network.modules():
        if type(module) is Conv2dSame:
            module.__class__ = SameConvolution


def make_dense(network: nn.Module) -> None:
    """Replace modules of timm's Swin or Swin V2, in place, by such as take images and maps of any size."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) in DENSE:
                setattr(module, name, DENSE[type(child)](child))
