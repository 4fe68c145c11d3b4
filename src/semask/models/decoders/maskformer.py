"""Mask classification: a pixel decoder, a transformer decoder over queries, here MaskFormer's, and their head."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.layers.attention import QueryLayer, sine_positions
from semask.models.layers.blocks import caffe2_xavier
from semask.structures import Features, MaskLogits, PixelFeatures


class MaskClassifier(nn.Module):
    """A set of masks, each with one class, from a pyramid of maps.

    Source: MaskFormer (arXiv:2107.06278) §3; SeMask §3.4.
    """

    has_auxiliary: ClassVar[bool] = True
    classifies_masks: ClassVar[bool] = True
    size_multiple: ClassVar[int] = 32
    """Images are padded to it [px], so that every map of the pyramid is twice as large as the next."""

    def __init__(self, pixel_decoder: nn.Module, predictor: nn.Module) -> None:
        """`pixel_decoder` turns Features into PixelFeatures, `predictor` both into MaskLogits."""
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(self, features: Features, *, auxiliary: bool = True) -> MaskLogits:
        """Return the last prediction, with those of earlier layers unless `auxiliary` is False."""
        out: MaskLogits = self.predictor(features, self.pixel_decoder(features), auxiliary=auxiliary)
        return out


class MaskHead(nn.Module):
    """Queries to logits: a linear layer for the class; for the mask an embedding, multiplied with every pixel's."""

    def __init__(self, width: int, *, num_classes: int, mask_width: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, num_classes + 1)
        self.embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, mask_width)
        )

    def forward(self, queries: Float[Tensor, "b q d"], pixels: Float[Tensor, "b c h w"]) -> MaskLogits:
        """Return class and mask logits of every query; the last class is "no object"."""
        return MaskLogits(self.classify(queries), self.masks(queries, pixels))

    def masks(self, queries: Float[Tensor, "b q d"], pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b q h w"]:
        return torch.einsum("bqc,bchw->bqhw", self.embed(queries), pixels)


def stack(predictions: list[MaskLogits]) -> MaskLogits:
    """Return the last prediction with the earlier ones in it."""
    return predictions[-1]._replace(auxiliary=tuple(predictions[:-1]))


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
