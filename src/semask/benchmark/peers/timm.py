"""timm: the encoder alone, without semantic layers and decoder: a lower bound of what its models cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semask.benchmark.contender import Contender
from semask.benchmark.peers.pixels import PixelPeer
from semask.models.encoders.bare import bare_encoder
from semask.recipes import Recipe


def peer(recipe: Recipe, size: tuple[int, int]) -> Contender:
    """Return timm's own encoder of the recipe; a ValueError where timm has none, and where label maps are wanted."""
    network = PixelPeer(bare_encoder(recipe.model.encoder, size), recipe)

    def labels(images: Tensor) -> Tensor:
        raise ValueError("timm's encoder alone makes no label maps; measure it with --what forward or train")

    def loss(images: Tensor, _: Tensor) -> Tensor:
        maps: Sequence[Tensor] = network(images)
        return torch.stack([level.float().mean() for level in maps]).sum()

    title = f"timm {recipe.model.encoder.name.split('.', 1)[0]} (encoder alone)"
    return Contender(title, "timm", recipe, network.eval(), network, labels, loss)
