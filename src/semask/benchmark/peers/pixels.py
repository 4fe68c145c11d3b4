"""What per-pixel peers have in common: logits at their own grid, resized for labels and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.benchmark.contender import Contender
from semask.ops.geometry import padding_to_multiple
from semask.ops.resize import resize
from semask.recipes import Recipe
from semask.structures import IGNORE


class PixelPeer(nn.Module):
    """A network whose output holds logits, as its users run it: resize and take the best, or the cross-entropy.

    Images are normalised and padded within, to multiples of `multiple` [px]; `read` takes the logits from what the
    network returns.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, recipe: Recipe, *, multiple: int = 1, read: Callable[[Any], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network, self.multiple, self.read = network, multiple, read
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe.model, name)).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised, padded images at the network's grid."""
        bottom, right = padding_to_multiple(images.shape[-2], images.shape[-1], self.multiple)
        found = self.network(F.pad((images - self.mean) / self.std, (0, right, 0, bottom)))
        return found if self.read is None else self.read(found)

    def labels(self, images: Tensor) -> Tensor:
        """Return the best class of every pixel."""
        return self._at_image(images).argmax(dim=1).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy at the images' size."""
        return F.cross_entropy(self._at_image(images), labels.long(), ignore_index=IGNORE)

    def _at_image(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        bottom, right = padding_to_multiple(height, width, self.multiple)
        size = (height + bottom, width + right)
        return resize(self(images).float(), size)[..., :height, :width]


def contender(title: str, library: str, recipe: Recipe, network: PixelPeer) -> Contender:
    """Return a per-pixel peer as a contender."""
    return Contender(title, library, recipe, network.eval(), network, network.labels, network.loss)
