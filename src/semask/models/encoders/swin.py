"""timm's Swin and Swin V2, made for classification, as those of dense prediction: images of any size.

timm shifts a map and then pads it, and shrinks the window on small maps; the official segmentation code pads first and
keeps the window. The modules below take over timm's weights, names included, and follow the official order. Sizes are
divisions rounded up (`divide_up`), which a compiler for all sizes can follow through a whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, SwinTransformerStage, WindowAttention
from timm.models.swin_transformer_v2 import PatchMerging as PatchMergingV2
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from semask.ops.attention import biased_attention, queries_keys_values
from semask.ops.memory import apply_chunked, checkpoint_pointwise
from semask.ops.resize import pad_images, padding_to_multiple, size_of
from semask.ops.windows import Kinds, WindowLayer, attend_in_windows, pad_to_windows, window_masks

NOTHING = 1e-30
"""Weight of attention that changes no result."""


class ShiftedWindowAttention(nn.Module):
    """Attention inside windows of a map that is padded, then shifted.

    Tokens that pad the map take part with query, key and value equal to the biases; after a shift, scores between
    tokens that were not adjacent are lowered by 100.

    Source: Swin (arXiv:2103.14030) §3.2; padding as in the official segmentation code.
    """

    relative_position_index: Tensor
    near: Tensor

    def __init__(self, attention: WindowAttention, *, shift: int) -> None:
        """`shift` [tokens] is 0 or half the window."""
        super().__init__()
        self.window_size = int(attention.window_size[0])
        self.num_heads = int(attention.num_heads)
        self.shift = shift
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", relative_positions(self.window_size), persistent=False)
        self.register_buffer("near", window_masks(self.window_size, shift=shift), persistent=False)

    def forward(
        self, x: Float[Tensor, "b h w c"], *, norm: nn.Module | None = None, residual: bool = False
    ) -> Float[Tensor, "b h w c"]:
        """Return the attended map at the same size; with `norm` that of norm(x), with `residual` x added to it."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()
        biases = bias - 100.0 * ~self.near[:, None]  # of every kind of window

        given: dict[str, Any] = {} if norm is None else {"norm": norm}
        if residual:
            given["residual"] = lambda tokens, _, update: tokens + update
        attend = partial(self._attend, bias=bias, biases=biases)
        layer = WindowLayer(lambda tokens: (self.qkv(tokens),), attend, lambda out, _: (self.proj(out),), **given)
        return attend_in_windows(x, self.window_size, layer, shift=self.shift)[0]

    def _attend(self, features: tuple[Tensor, ...], kinds: Kinds, *, bias: Tensor, biases: Tensor) -> Tensor:
        (joint,) = features
        if isinstance(kinds, int):  # windows of one kind share one bias
            return biased_attention(joint, biases[kinds].to(joint.dtype))
        # all windows at once; those of one image become heads, so that one mask serves every image
        bias = bias if kinds is None else biases[kinds]
        # multi-head attention with relative position bias
        sides = queries_keys_values(joint, self.num_heads)  # 3 *b heads n d
        query, key, value = sides.flatten(2, -3).unbind(0)
        bias = bias.flatten(0, -3)[None].to(query.dtype)
        if self.shift and torch.compiler.is_exporting():
            # e⁻¹⁰⁰ is no normal number: products with such weights take runtimes ten times as long, and add nothing
            weights = (query * query.shape[-1] ** -0.5 @ key.mT + bias).softmax(-1)
            attended = torch.where(weights > NOTHING, weights, 0.0) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.view(sides.shape[1:]).transpose(-3, -2).flatten(-2)

    def queries(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return the queries of all heads side by side, not scaled."""
        return F.linear(x, self.qkv.weight[: x.shape[-1]], self.qkv.bias[: x.shape[-1]])


class DenseSwinBlock(nn.Module):
    """A Swin block for maps of any size; the weights and their names are timm's.

    returns_queries: whether the queries, before they are split into heads, follow the channels of the map.
    """

    def __init__(self, block: SwinTransformerBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = ShiftedWindowAttention(block.attn, shift=int(block.shift_size[0]))
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.drop_path2 = block.drop_path2
        self.returns_queries = False

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w o"]:
        if not (self.training or self.returns_queries):
            # Norm and residual run window by window, so that neither is ever in memory for the whole map.
            x = self.attn(x, norm=self.norm1, residual=True)
            return apply_chunked(lambda tokens: tokens + self._mlp(tokens), x)
        normalised = self.norm1(x)
        # Stochastic depth drops whole maps.
        out = x + self.drop_path1(self.attn(normalised))
        out = out + self.drop_path2(apply_chunked(self._mlp, out))
        return torch.cat((out, self.attn.queries(normalised)), dim=-1) if self.returns_queries else out

    def _mlp(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        mlp = self.mlp
        # fc1 of the norm, then fc2 of the activation: both keep their inputs alone for the backward pass
        hidden = checkpoint_pointwise(lambda tokens: mlp.fc1(self.norm2(tokens)), x)
        return checkpoint_pointwise(lambda wide: mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(mlp.act(wide))))), hidden)


class DenseSwinV2Block(nn.Module):
    """A block of Swin V2 over windows of a map that is padded, then shifted; weights and their names are timm's.

    timm's mask, made for the padded map, does not fit its order of shift and padding: opposite borders attend to each
    other. Without padding both are the same.

    Source: Swin V2 (arXiv:2111.09883) §3.2, residual post-norm; the order of padding as in Swin's segmentation code.
    """

    near: Tensor

    def __init__(self, block: SwinTransformerV2Block) -> None:
        super().__init__()
        self.window_size = int(block.window_size[0])
        self.shift = int(block.shift_size[0])
        self.attn = block.attn
        self.norm1 = block.norm1
        self.drop_path1 = block.drop_path1
        self.mlp = block.mlp
        self.norm2 = block.norm2
        self.drop_path2 = block.drop_path2
        self.register_buffer("near", window_masks(self.window_size, shift=self.shift), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        layer = WindowLayer(project=lambda tokens: (tokens,), attend=self._attend)
        (attended,) = attend_in_windows(x, self.window_size, layer, shift=self.shift)
        # residual post-norm
        x = x + self.drop_path1(self.norm1(attended))
        return x + self.drop_path2(self.norm2(apply_chunked(self.mlp, x)))

    def _attend(self, features: tuple[Tensor, ...], kinds: Kinds) -> Tensor:
        (windows,) = features
        mask = None
        if isinstance(kinds, Tensor) or kinds:
            near = self.near[kinds]
            mask = -100.0 * ~near.view(-1, *near.shape[-2:])
        out: Tensor = self.attn(windows.flatten(0, -3), mask=mask)
        return out.view(windows.shape)


class DensePatchEmbedding(nn.Module):
    """One token per patch of an image, padded at the right and bottom to whole patches."""

    def __init__(self, embedding: PatchEmbed) -> None:
        super().__init__()
        self.patch_size = int(embedding.patch_size[0])
        self.proj = embedding.proj
        self.norm = embedding.norm

    def forward(self, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b h w c"]:
        """Return ⌈H / patch⌉ × ⌈W / patch⌉ tokens."""
        bottom, right = padding_to_multiple(*size_of(images), self.patch_size)
        return self.norm(self.proj(pad_images(images, bottom, right)).permute(0, 2, 3, 1))


class DensePatchMerging(nn.Module):
    """One token per 2×2 tokens, zeros where a side is odd: Swin normalises and projects them, Swin V2 in turn."""

    def __init__(self, merging: PatchMerging | PatchMergingV2, steps: tuple[str, str] = ("norm", "reduction")) -> None:
        super().__init__()
        self.steps = steps
        for step in steps:
            self.add_module(step, getattr(merging, step))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j o"]:
        """Return ⌈h / 2⌉ × ⌈w / 2⌉ tokens."""
        # b h w c → b h/2 w/2 4c
        padded = pad_to_windows(x, 2)
        batch, height, width, channels = padded.shape
        x = padded.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        for step in self.steps:
            x = getattr(self, step)(x)
        return x


DENSE: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    PatchEmbed: DensePatchEmbedding,
    PatchMerging: DensePatchMerging,
    PatchMergingV2: partial(DensePatchMerging, steps=("reduction", "norm")),
    SwinTransformerBlock: DenseSwinBlock,
    SwinTransformerV2Block: DenseSwinV2Block,
}
"""timm's modules and the modules that take over their weights."""


def make_dense(network: nn.Module) -> None:
    """Replace modules of timm's Swin or Swin V2, in place, by modules for images and maps of any size."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) in DENSE:
                setattr(module, name, DENSE[type(child)](child))


def relative_positions(window_size: int) -> Tensor:
    """Return the row of the bias table for every (query, key) pair of a window: n × n, int64."""
    # steps along both axes, counted from 0
    place = torch.arange(window_size**2)
    steps = (axis[:, None] - axis[None, :] + window_size - 1 for axis in (place // window_size, place % window_size))
    rows, columns = steps
    return rows * (2 * window_size - 1) + columns


def return_queries(network: nn.Module) -> None:
    """Let the last block of every stage of a dense Swin return its queries too, behind the channels of its map."""
    for module in network.modules():
        if isinstance(module, SwinTransformerStage):
            module.blocks[-1].returns_queries = True
