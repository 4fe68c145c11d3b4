"""Mask2Former's pixel decoder: deformable attention over the three coarser maps, and one level above them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semask.models.layers.attention import PostNormMLP, check_heads, sine_positions
from semask.models.layers.blocks import caffe2_xavier, group_norm
from semask.ops.deformable import Grid, deformable_attention, grid_of
from semask.ops.resize import resize, size_of
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
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "_b n d"], grid: Grid
    ) -> Float[Tensor, "b n d"]:
        return self.mlp(self.norm(tokens + self.attention(tokens, positions, grid)))


class MSDeform(nn.Module):
    """Refine the maps at strides 32, 16 and 8 together, then build stride 4 on the last of them.

    With an aligned finest level this is MSFaPN's pixel decoder.

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
        self.projections = nn.ModuleList()
        for coarse in reversed(channels[-NUM_LEVELS:]):
            conv = nn.Conv2d(coarse, width, 1)
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.projections.append(nn.Sequential(conv, group_norm(width)))
        self.level_embeddings = nn.Parameter(torch.randn(NUM_LEVELS, width))
        self.layers = nn.ModuleList(DeformableLayer(width, num_heads=num_heads, hidden=hidden) for _ in range(layers))
        self.finest = finest
        self.mask_features = caffe2_xavier(nn.Conv2d(width, width, 1))

    def forward(self, features: Features) -> PixelFeatures:
        """Return the pixels' embeddings at the finest grid, and the three refined maps."""
        fine, *others = features.maps
        # project strides 32, 16 and 8, coarse to fine
        maps = [project(level) for project, level in zip(self.projections, reversed(others), strict=True)]
        sizes = [size_of(level) for level in maps]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        # position in the map plus embedding of the level
        width = tokens.shape[-1]
        levels = zip(maps, self.level_embeddings, strict=True)
        positions = torch.cat([sine_positions(level, width) + embedding for level, embedding in levels], dim=1)
        grid = grid_of(sizes, device=tokens.device)
        for layer in self.layers:
            if self.training:
                # Computed again in the backward pass: the activations would be a third of a step's memory.
                tokens = checkpoint(layer, tokens, positions, grid, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = layer(tokens, positions, grid)
        parts = tokens.transpose(1, 2).split([height * width for height, width in sizes], dim=-1)
        refined = [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]
        # build stride 4 on top
        coarse = resize(refined[-1], size_of(fine))
        return PixelFeatures(self.mask_features(self.finest(fine, coarse)), tuple(refined))


class DeformableAttention(nn.Module):
    """Attention of every token of a pyramid to a few points around it, on all levels.

    Offsets are linear in the token, in tokens of the level they point to, and start as a star: head k looks in
    direction k of the circle, point i at distance i. Weights are a softmax over levels and points.

    Source: Deformable DETR (arXiv:2010.04159) §4.1; Mask2Former: 8 heads, 3 levels, 4 points.
    """

    def __init__(self, width: int, *, num_heads: int = 8, num_levels: int = 3, num_points: int = 4) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.layout = (num_heads, num_levels, num_points)
        self.offsets = nn.Linear(width, 2 * math.prod(self.layout))
        self.weights = nn.Linear(width, math.prod(self.layout))
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(star(num_heads, num_levels, num_points).flatten())
        for start in (self.weights.weight, self.weights.bias, self.value.bias, self.project.bias):
            nn.init.zeros_(start)
        for linear in (self.value, self.project):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, tokens: Float[Tensor, "b n d"], positions: Float[Tensor, "_b n d"], grid: Grid
    ) -> Float[Tensor, "b n d"]:
        heads, levels, points = self.layout
        queries = tokens + positions
        # sampling offsets and attention weights, linear in the query
        offsets = self.offsets(queries).unflatten(-1, (heads, levels, points, 2)).float()
        weights = self.weights(queries).unflatten(-1, (heads, levels * points)).softmax(-1)
        locations = grid.references[:, None, None, None] + offsets / grid.extents[:, None]
        values = self.value(tokens).unflatten(-1, (heads, -1))
        mixed = deformable_attention(values, grid, locations, weights.unflatten(-1, (levels, points)))
        return self.project(mixed)


def star(num_heads: int, num_levels: int, num_points: int) -> Float[Tensor, "heads l p 2"]:
    """Return the offsets (x, y) that deformable attention starts with [tokens]."""
    angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    distances = torch.arange(1, num_points + 1)[:, None]
    return (directions[:, None, None] * distances).expand(-1, num_levels, -1, -1)
