"""Small models and functions that give scores, some of them known to keep a symmetry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.inference import Pipeline
from semask.models.model import SegmentationModel
from semask.ops.lazy_scores import InMemory
from semask.structures import Features, PixelLogits


def pointwise(images: Tensor) -> Tensor:
    """Four exact integers per pixel that depend on that pixel alone."""
    red, green, blue = (images * 256).round().unbind(1)
    return torch.stack([red, green, blue, red - blue], dim=1)


def gradient(images: Tensor) -> Tensor:
    """Scores that depend on the neighbour at the right: not equivariant to flips."""
    return torch.cat([images, images.roll(-1, dims=-1)], dim=1)


def symmetric(images: Tensor) -> Tensor:
    """A blur: equivariant to flips, and no pixel stands alone."""
    return F.avg_pool2d(images, 3, stride=1, padding=1)


def positional(images: Tensor) -> Tensor:
    """Scores that depend on where a pixel lies in what the model sees, and on its neighbour below."""
    height, width = images.shape[-2:]
    down, across = torch.meshgrid(torch.arange(height) / 7, torch.arange(width) / 5, indexing="ij")
    return images * torch.cos(down + 2 * across) + images.roll(-1, dims=-2) * torch.sin(across)


class Toy:
    """Scores by a fixed function; remembers the sizes it saw."""

    size_multiple = 8
    scores_are_logits = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def lazy_scores(self, images: Tensor) -> InMemory:
        self.seen.append(tuple(images.shape))
        return InMemory(gradient(images))

    def lazy_prior(self, images: Tensor) -> InMemory:
        self.seen.append(tuple(images.shape))
        return InMemory(pointwise(images))


def watched(predictor: Pipeline) -> tuple[Pipeline, list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return predictor(images)

    return predict, seen


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Patches(nn.Module):
    """An encoder of patches of 4 px: their mean colours."""

    size_multiple = 4

    def forward(self, images: Tensor) -> Features:
        return Features((F.avg_pool2d(images, 4),))


class Colours(nn.Module):
    def forward(self, features: Features) -> PixelLogits:
        return PixelLogits(features.maps[0])


def patch_model() -> SegmentationModel:
    return SegmentationModel(Patches(), Colours(), num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)
