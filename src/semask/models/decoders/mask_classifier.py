"""Mask classification: a pixel decoder, a transformer decoder over queries, and the head that both end in."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.structures import Features, MaskLogits


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
