"""torchvision: DeepLabV3 or FCN over a dilated ResNet, a yardstick that everyone has."""

from __future__ import annotations

from torchvision.models import segmentation

from semask.benchmark.contender import Contender
from semask.benchmark.peers.pixels import PixelPeer, contender
from semask.recipes import Recipe


def peer(recipe: Recipe, size: tuple[int, int]) -> Contender:
    """Return FCN beside our FCN, DeepLabV3 beside all else; over ResNet-101 beside recipes that have one, else 50."""
    kind = "fcn" if recipe.model.decoder.name == "fcn" else "deeplabv3"
    name = f"{kind}_resnet{101 if '101' in recipe.model.encoder.name else 50}"
    make = getattr(segmentation, name)
    network = make(weights=None, weights_backbone=None, num_classes=recipe.model.num_classes)
    return contender(
        f"torchvision {name}", "torchvision", recipe, PixelPeer(network, recipe, read=lambda found: found["out"])
    )
