"""timm's Swin V2 made the Swin V2 of dense prediction: maps of any size, padded before they are shifted."""

from __future__ import annotations

from jaxtyping import Float
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from semask.ops.chunked import tokenwise
from semask.ops.tiling import Group, is_tiled, joined, run_in_groups, tiling_of
from semask.ops.windows import kinds_of_neighbours, run_in_windows


class DenseSwinV2Block(nn.Module):
    """A block of Swin V2 over windows of a map that is padded, then shifted; weights and their names are timm's.

    timm shifts a map and then pads it, and its mask, made for the padded map, no longer fits: opposite borders see each
    other. Without padding both are the same.

    Source: Swin V2 (arXiv:2111.09883) §3.2, residual post-norm; the order of padding as in Swin's segmentation code.
    """

    near: Tensor

    def __init__(self, block: SwinTransformerV2Block) -> None:
        """Take over a block whose windows are squares."""
        super().__init__()
        self.window_size = int(block.window_size[0])
        self.shift = int(block.shift_size[0])
        self.attn = block.attn
        self.norm1 = block.norm1
        self.drop_path1 = block.drop_path1
        self.mlp = block.mlp
        self.norm2 = block.norm2
        self.drop_path2 = block.drop_path2
        self.register_buffer("near", kinds_of_neighbours(self.window_size, shift=self.shift), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attention, then MLP, each normalised behind and added to the map."""
        x = x + self.drop_path1(self.norm1(self._attend(x)))
        out: Tensor = x + self.drop_path2(self.norm2(tokenwise(self.mlp, x)))
        return out

    def _attend(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        if is_tiled(x):
            tiling = tiling_of(x, self.window_size, shift=self.shift)
            (out,) = run_in_groups(x.flatten(0, 2), tiling, lambda tokens, group: (self._run(tokens, group),))
            return out.view(x.shape)
        return run_in_windows(
            x,
            self.window_size,
            shift=self.shift,
            attend=lambda windows, near: self.attn(windows, mask=None if near is None else -100.0 * ~near),
        )

    def _run(self, tokens: Float[Tensor, "m c"], group: Group) -> Float[Tensor, "m c"]:
        padding = group.padding(nn.Identity(), tokens)
        attended = []
        for part, values in group.shares(tokens):
            apart = -100.0 * ~self.near[part.kind][None] if part.kind else None
            attended.append(part.drain(self.attn(part.fill(values, padding, self.window_size**2), mask=apart)))
        return joined(attended)
