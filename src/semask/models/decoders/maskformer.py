"""MaskFormer's transformer decoder: queries attend to the encoder's coarsest map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semask.models.decoders.mask_classifier import MaskHead, stack
from semask.models.layers.blocks import caffe2_xavier
from semask.models.layers.query import QueryLayer, sine_positions
from semask.structures import Features, MaskLogits, PixelFeatures


class MaskFormerPredictor(nn.Module):
    """Layers of self-attention, cross-attention and MLP over learned queries.

    Queries start at zero, with their learned positions alone.

    Source: MaskFormer (arXiv:2107.06278) §3.3, DETR's decoder; SeMask's configuration: 6 layers, 8 heads, 100 queries.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        width: int = 256,
        queries: int = 100,
        layers: int = 6,
        num_heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        """`channels` are those of the encoder's coarsest map; pixels are embedded in `width` channels."""
        super().__init__()
        self.project = caffe2_xavier(nn.Conv2d(channels, width, 1))
        self.query_positions = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(
            QueryLayer(width, num_heads=num_heads, hidden=hidden, dropout=dropout, self_attention_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = MaskHead(width, num_classes=num_classes, mask_width=width)

    def forward(self, features: Features, pixels: PixelFeatures, *, auxiliary: bool = True) -> MaskLogits:
        """Return the last layer's prediction and, in `auxiliary`, those of the layers before it."""
        # image features with positions
        coarsest = self.project(features.maps[-1])
        memory = coarsest.flatten(2).transpose(1, 2)
        key = memory + sine_positions(coarsest, memory.shape[-1])
        # transformer decoder: every layer predicts
        positions = self.query_positions[None]
        queries: Tensor = torch.zeros_like(positions).expand(memory.shape[0], -1, -1)
        predictions: list[MaskLogits] = []
        for number, layer in enumerate(self.layers, start=1):
            queries = layer(queries, positions, key, memory)
            if auxiliary or number == len(self.layers):
                predictions.append(self.head(self.norm(queries), pixels.masks))
        return stack(predictions)
