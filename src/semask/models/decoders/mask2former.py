"""Mask2Former's transformer decoder: queries attend to the pyramid, each within the mask that it predicts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semask.models.decoders.maskformer import MaskHead, stack
from semask.models.layers.attention import QueryLayer, sine_positions
from semask.ops.resize import resize, size_of
from semask.structures import Features, MaskLogits, PixelFeatures

NUM_LEVELS = 3


class Mask2FormerPredictor(nn.Module):
    """Layers of masked cross-attention, self-attention and MLP, over the levels of the pyramid in turn, coarse first.

    The queries predict before the first layer and after every layer; a prediction is the next layer's attention mask.

    Source: Mask2Former (arXiv:2112.01527) §3.2; 9 layers, 8 heads, 100 queries.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        width: int = 256,
        queries: int = 100,
        layers: int = 9,
        num_heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_features = nn.Parameter(torch.randn(queries, width))
        self.query_positions = nn.Parameter(torch.randn(queries, width))
        self.level_embeddings = nn.Parameter(torch.randn(NUM_LEVELS, width))
        self.layers = nn.ModuleList(
            QueryLayer(width, num_heads=num_heads, hidden=hidden, dropout=dropout, self_attention_first=False)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = MaskHead(width, num_classes=num_classes, mask_width=width)

    def forward(self, features: Features, pixels: PixelFeatures, *, auxiliary: bool = True) -> MaskLogits:
        """Return the last layer's prediction and, in `auxiliary`, the first one and those of the layers before."""
        # tokens of every level, with the level's embedding and, as keys, with positions
        values = [
            level.flatten(2).transpose(1, 2) + embedding
            for level, embedding in zip(pixels.pyramid, self.level_embeddings, strict=True)
        ]
        keys = [
            value + sine_positions(level, value.shape[-1]) for value, level in zip(values, pixels.pyramid, strict=True)
        ]
        # pixel embeddings at every level's grid, for attention masks
        grids = [resize(pixels.masks.detach(), size_of(level)) for level in pixels.pyramid]
        positions = self.query_positions[None]
        queries: Tensor = self.query_features.expand(values[0].shape[0], -1, -1)
        predictions = [self.head(self.norm(queries), pixels.masks)] if auxiliary else []
        for number, layer in enumerate(self.layers):
            level = number % NUM_LEVELS
            # masked attention
            visible = self._visible(queries, grids[level])
            queries = layer(queries, positions, keys[level], values[level], visible)
            if auxiliary or number + 1 == len(self.layers):
                predictions.append(self.head(self.norm(queries), pixels.masks))
        return stack(predictions)

    @torch.no_grad()
    def _visible(self, queries: Float[Tensor, "b q d"], grid: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b q n"]:
        """Return the tokens of a level that lie in each query's mask; a query of an empty mask attends to all.

        The mask at a level's grid is the product with the embeddings resized to that grid: both steps are linear, so
        they commute, and masks at full size are not needed here.
        """
        inside = self.head.masks(self.norm(queries), grid).flatten(2) >= 0
        return inside | ~inside.any(-1, keepdim=True)
