"""Mask2Former's pixel decoder: deformable attention over the three coarser maps, and one level above them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semask.models.layers.blocks import caffe2_xavier, group_norm
from semask.models.layers.deformable import DeformableAttention, Grid, grid_of
from semask.models.layers.position import sine_positions
from semask.models.layers.query import PostNormMLP
from semask.ops.resize import resize
from semask.structures import Features, PixelFeatures

NUM_LEVELS = 3


class DeformableLayer(nn.Module):
    """Deformable attention and an MLP, each added to its input and normalised."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, num_heads=num_heads, num_levels=NUM_LEVELS)
        self.norm = nn.LayerNorm(width)
        self.mlp = PostNormMLP(width, hidden)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        positions: Float[Tensor, "_b n d"],
        grid: Grid,
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens of all levels after this layer."""
        out: Tensor = self.mlp(self.norm(tokens + self.attention(tokens, positions, grid)))
        return out


class MSDeform(nn.Module):
    """Refine the maps at strides 32, 16 and 8 together, then build stride 4 on the last of them.

    With an aligned finest level this is MSFaPN's pixel decoder (see `pixel_decoders/fapn.py`).

    Source: Mask2Former (arXiv:2112.01527) §3.2.2: 6 layers, 8 heads, 4 points, 256 channels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        finest: nn.Module,
        *,
        width: int = 256,
        layers: int = 6,
        num_heads: int = 8,
        hidden: int = 1024,
    ) -> None:
        """`channels` are the encoder's; `finest` merges its first map with the refined one at stride 8."""
        super().__init__()
        self.projections = nn.ModuleList(_projection(coarse, width) for coarse in reversed(channels[-NUM_LEVELS:]))
        self.level_embeddings = nn.Parameter(torch.randn(NUM_LEVELS, width))
        self.layers = nn.ModuleList(DeformableLayer(width, num_heads=num_heads, hidden=hidden) for _ in range(layers))
        self.finest = finest
        self.mask_features = caffe2_xavier(nn.Conv2d(width, width, 1))

    def forward(self, features: Features) -> PixelFeatures:
        """Return the pixels' embeddings at the finest grid, and the three refined maps."""
        fine, *others = features.maps
        maps = [project(level) for project, level in zip(self.projections, reversed(others), strict=True)]
        refined = self._refine(maps)
        coarse = resize(refined[-1], (fine.shape[-2], fine.shape[-1]))
        return PixelFeatures(self.mask_features(self.finest(fine, coarse)), tuple(refined))

    def _refine(self, maps: list[Tensor]) -> list[Tensor]:
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        positions = torch.cat(
            [
                sine_positions(level, tokens.shape[-1]) + embedding
                for level, embedding in zip(maps, self.level_embeddings, strict=True)
            ],
            dim=1,
        )
        grid = grid_of(sizes, device=tokens.device)
        for layer in self.layers:
            if self.training:
                # Made again in the backward pass: what these layers keep would be a third of a step's memory.
                tokens = checkpoint(layer, tokens, positions, grid, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = layer(tokens, positions, grid)
        parts = tokens.transpose(1, 2).split([height * width for height, width in sizes], dim=-1)
        return [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]


def _projection(channels: int, width: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, group_norm(width))
