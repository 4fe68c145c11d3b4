"""Backbones that timm runs as one piece, run stage by stage, with room for semantic layers between the stages.

Each class takes over the modules of one of timm's networks under timm's own names, without its head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from timm.models.hiera import Hiera, Unroll
from timm.models.hieradet_sam2 import HieraDet
from timm.models.mvitv2 import MultiScaleVit
from timm.models.twins import Twins
from torch import Tensor, nn

STAGES = ("stage1", "stage2", "stage3", "stage4")


class Staged(nn.Module):
    """A backbone of four stages; maps between them are b h w c with `channels_last`, else b c h w."""

    channels_last = False

    def items(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield the stages, in order, each with the function that runs it, as a ModuleDict does."""
        for stage, name in enumerate(STAGES):
            yield name, partial(self.run, stage)

    def run(self, stage: int, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the map of a stage (0 … 3) from images (b c H W) for the first, else from the map before it."""
        raise NotImplementedError


class StagedTwins(Staged):
    """Twins (arXiv:2104.13840): patches, blocks, and a positional convolution behind each stage's first block."""

    def __init__(self, network: Twins) -> None:
        super().__init__()
        self.patch_embeds = network.patch_embeds
        self.pos_drops = network.pos_drops
        self.blocks = network.blocks
        self.pos_block = network.pos_block

    def run(self, stage: int, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        # patch embedding
        tokens, size = self.patch_embeds[stage](x)
        tokens = self.pos_drops[stage](tokens)
        for index, block in enumerate(self.blocks[stage]):
            tokens = block(tokens, size)
            if index == 0:
                # conditional position encoding
                tokens = self.pos_block[stage](tokens, size)
        return _map_of(tokens, size)


class StagedMViT(Staged):
    """MViTv2 (arXiv:2112.01526): the first block of a stage pools its queries."""

    def __init__(self, network: MultiScaleVit) -> None:
        """Refuse networks with a class token, which would have to bypass the semantic layers."""
        super().__init__()
        if network.cls_token is not None or network.pos_embed is not None:
            raise ValueError(
                "an MViTv2 with a class token passes on more than maps; use one without, such as mvitv2_tiny, "
                "mvitv2_small, mvitv2_base or mvitv2_large"
            )
        self.patch_embed = network.patch_embed
        self.stages = network.stages

    def run(self, stage: int, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        tokens, size = self.patch_embed(x) if stage == 0 else (x.flatten(2).transpose(1, 2), (x.shape[-2], x.shape[-1]))
        tokens, size = self.stages[stage](tokens, size)
        return _map_of(tokens, (size[0], size[1]))


class StagedHiera(Staged):
    """Hiera (arXiv:2306.00989): blocks read tokens window by window; between stages the tokens lie row by row.

    Positions and the order of tokens are for images of one size.
    """

    channels_last = True

    def __init__(self, network: Hiera) -> None:
        super().__init__()
        self.spans = _spans(network.stage_ends)
        self.patch_embed = network.patch_embed
        self.pos_embed = network.pos_embed
        self.pos_embed_win = network.pos_embed_win
        self.grid = tuple(network.tokens_spatial_shape)
        self.units = tuple(network.mask_spatial_shape)
        self.blocks = network.blocks
        self.reroll = network.reroll
        # The order in which the blocks before a stage leave the tokens; for the first stage that of its own blocks.
        orders = [network.reroll.schedule[max(span.start - 1, 0)] for span in self.spans]
        self.unrolls = nn.ModuleList(Unroll(size, (1, 1), steps) for steps, size in orders)

    def run(self, stage: int, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b h w c"]:
        tokens = self.patch_embed(x) + self._positions() if stage == 0 else x.flatten(1, 2)
        # from rows to the order of the windows, and back
        tokens = self.unrolls[stage](tokens)
        for index in self.spans[stage]:
            tokens = self.blocks[index](tokens)
        return self.reroll(tokens, self.spans[stage][-1])

    def _positions(self) -> Float[Tensor, "1 n c"]:
        """Return the full position table, or the sum of a coarse one, resized, and that of one window, repeated."""
        if self.pos_embed_win is None:
            return self.pos_embed
        # absolute windowed positions
        coarse = F.interpolate(self.pos_embed, size=self.grid, mode="bicubic", antialias=True)
        table: Tensor = coarse + self.pos_embed_win.tile(self.units)
        return table.flatten(2).transpose(1, 2)


class StagedHieraDet(Staged):
    """SAM 2's Hiera (arXiv:2408.00714), whose maps stay maps and whose images may be of any size."""

    channels_last = True

    def __init__(self, network: HieraDet) -> None:
        super().__init__()
        self.spans = _spans(network.stage_ends)
        self.patch_embed = network.patch_embed
        self.pos_embed = network.pos_embed
        self.pos_embed_window = network.pos_embed_window
        self.blocks = network.blocks

    def run(self, stage: int, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b h w c"]:
        if stage == 0:
            x = self.patch_embed(x)
            # the coarse position table, resized, and that of one window, repeated
            coarse = F.interpolate(self.pos_embed, size=(x.shape[1], x.shape[2]), mode="bicubic")
            side = self.pos_embed_window.shape[-1]
            table = coarse + self.pos_embed_window.tile((x.shape[1] // side, x.shape[2] // side))
            x = x + table.permute(0, 2, 3, 1)
        for index in self.spans[stage]:
            x = self.blocks[index](x)
        return x


def _map_of(tokens: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    return tokens.transpose(1, 2).unflatten(-1, size)


def _spans(ends: Sequence[int]) -> list[range]:
    """Return the numbers of the blocks of every stage; `ends` are those of the last ones."""
    return [range(before + 1, end + 1) for before, end in zip((-1, *ends), ends, strict=False)]
