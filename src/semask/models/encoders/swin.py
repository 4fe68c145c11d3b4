"""timm's Swin made numerically the Swin of dense prediction.

timm shifts a map and then pads it, and shrinks the window on small maps; the official segmentation code pads first and
keeps the window. The blocks below take over timm's weights, names included, and follow the official order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage, WindowAttention
from torch import Tensor, nn

from semask.ops.attention import biased_attention, queries_keys_values
from semask.ops.chunked import lean, tokenwise
from semask.ops.tiling import Group, Part, is_tiled, joined, run_in_groups, tiling_of
from semask.ops.windows import kinds_of_neighbours, run_in_windows


class ShiftedWindowAttention(nn.Module):
    """Attend inside windows of a map that is padded, then shifted.

    Tokens that pad the map take part with query, key and value equal to the biases; after a shift, tokens that were no
    neighbours are kept apart by −100 on the scores.

    Source: Swin (arXiv:2103.14030) §3.2; padding as in the official segmentation code.
    """

    relative_position_index: Tensor
    near: Tensor

    def __init__(self, attention: WindowAttention, *, shift: int) -> None:
        """Take over the weights of timm's attention; `shift` [tokens] is 0 or half the window."""
        super().__init__()
        self.window_size = int(attention.window_size[0])
        self.num_heads = int(attention.num_heads)
        self.shift = shift
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", relative_positions(self.window_size), persistent=False)
        self.register_buffer("near", kinds_of_neighbours(self.window_size, shift=shift), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return the attended map at the same size."""
        if not is_tiled(x):
            return run_in_windows(x, self.window_size, shift=self.shift, attend=self._attend)
        return self._tiled(x, self._run)

    def add_to(self, x: Float[Tensor, "b h w c"], norm: nn.Module) -> Float[Tensor, "b h w c"]:
        """Return x + attention(norm(x)) of a map that is tiled; neither norm(x) nor what is added is ever whole."""
        return self._tiled(x, lambda tokens, group, biases: tokens + self._run(norm(tokens), group, biases))

    def _tiled(
        self, x: Float[Tensor, "b h w c"], run: Callable[[Tensor, Group, Tensor], Tensor]
    ) -> Float[Tensor, "b h w c"]:
        # Of every kind of window, and so one bias for all windows of a part.
        biases = self._position_bias() - 100.0 * ~self.near[:, None]
        tiling = tiling_of(x, self.window_size, shift=self.shift)
        (out,) = run_in_groups(x.flatten(0, 2), tiling, lambda tokens, group: (run(tokens, group, biases),))
        return out.view(x.shape)

    def _run(
        self, tokens: Float[Tensor, "m c"], group: Group, biases: Float[Tensor, "kinds heads n n"]
    ) -> Float[Tensor, "m c"]:
        padding = group.padding(self.qkv, tokens)
        attended = [
            self._attend_part(joint, part, padding, biases[part.kind]) for part, joint in group.shares(self.qkv(tokens))
        ]
        out: Tensor = self.proj(joined(attended))
        return out

    def _attend_part(
        self,
        joint: Float[Tensor, "m qkv"],
        part: Part,
        padding: Float[Tensor, "1 qkv"] | None,
        bias: Float[Tensor, "heads n n"],
    ) -> Float[Tensor, "m c"]:
        windows = part.fill(joint, padding, self.window_size**2)
        return part.drain(biased_attention(windows, bias.to(windows.dtype)))

    def _attend(self, windows: Float[Tensor, "nb n c"], near: Bool[Tensor, "w n n"] | None) -> Float[Tensor, "nb n c"]:
        query, key, value = queries_keys_values(self.qkv(windows), self.num_heads).unbind(0)
        bias = self._position_bias()[None]  # 1 heads n n
        if near is not None:
            # The windows of one image become heads, so that one mask serves every image of the batch.
            bias = (bias - 100.0 * ~near[:, None]).flatten(0, 1)[None]  # 1 windows·heads n n
            query, key, value = (t.unflatten(0, (-1, near.shape[0])).flatten(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        attended = attended if near is None else attended.unflatten(1, (-1, self.num_heads)).flatten(0, 1)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def queries(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return the queries of all heads side by side, not scaled."""
        channels = x.shape[-1]
        return F.linear(x, self.qkv.weight[:channels], self.qkv.bias[:channels])

    def _position_bias(self) -> Float[Tensor, "heads n n"]:
        bias: Tensor = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        return bias.contiguous()


class DenseSwinBlock(nn.Module):
    """A Swin block that takes maps of any size; the weights and their names are timm's.

    gives_queries: whether the queries, before they are shared among heads, follow the channels of the map.
    """

    def __init__(self, block: SwinTransformerBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = ShiftedWindowAttention(block.attn, shift=int(block.shift_size[0]))
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.drop_path2 = block.drop_path2
        self.gives_queries = False

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w o"]:
        """Attention, then MLP, each on normalised tokens and added to the map."""
        if self._is_made_in_parts(x):
            x = self.attn.add_to(x, self.norm1)
            return tokenwise(lambda tokens: tokens + self._expand_and_contract(tokens), x)
        normalised = self.norm1(x)
        queries = self.attn.queries(normalised) if self.gives_queries else None
        x = x + self.drop_path1(self.attn(normalised))
        out = x + self.drop_path2(tokenwise(self._expand_and_contract, x))
        return out if queries is None else torch.cat((out, queries), dim=-1)

    def _is_made_in_parts(self, x: Tensor) -> bool:
        """Say whether only sums are wanted: no gradient, no random depth and no queries."""
        return is_tiled(x) and not (torch.is_grad_enabled() or self.training or self.gives_queries)

    def _expand_and_contract(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        mlp = self.mlp
        hidden = lean(lambda tokens: mlp.fc1(self.norm2(tokens)), x)
        return lean(lambda wide: mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(mlp.act(wide))))), hidden)


def relative_positions(window_size: int) -> Tensor:
    """Return the row of the bias table for every (query, key) pair of a window: n × n, int64."""
    axis = torch.arange(window_size)
    rows, columns = (t.flatten() for t in torch.meshgrid(axis, axis, indexing="ij"))
    span = 2 * window_size - 1
    row_step = rows[:, None] - rows[None, :] + window_size - 1
    column_step = columns[:, None] - columns[None, :] + window_size - 1
    return row_step * span + column_step


def give_queries(network: nn.Module) -> None:
    """Let the last block of every stage of a dense Swin give out its queries too, behind the channels of its map."""
    for module in network.modules():
        if isinstance(module, SwinTransformerStage):
            module.blocks[-1].gives_queries = True
