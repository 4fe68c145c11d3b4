"""timm's Swins, made for classification, as those of dense prediction: images of any size, windows padded first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn

from semask.encoders.swin import DenseSwinBlock
from semask.encoders.swin_v2 import DenseSwinV2Block

DENSE: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    SwinTransformerBlock: DenseSwinBlock,
    SwinTransformerV2Block: DenseSwinV2Block,
}
"""timm's blocks and what takes over their weights."""


def make_dense(network: nn.Module) -> None:
    """Replace the blocks of timm's Swin or Swin V2, in place, and let its patch embedding pad any image."""
    for module in network.modules():
        if isinstance(module, PatchEmbed):
            module.dynamic_img_pad = True
            module.strict_img_size = False
        for name, child in list(module.named_children()):
            if type(child) in DENSE:
                setattr(module, name, DENSE[type(child)](child))
