"""From a recipe to a model and its loss: the one place where sizes meet.

encoder.py builds backbones, decoder.py holds the menu of decoders, loss.py the losses; checks.py and sizes.py say
where the parts do not fit. The package is callable, `semask.build(name)`: see docs/decisions/0002.
"""

from __future__ import annotations

import dataclasses

from semask.build.checks import check_numbers
from semask.build.decoder import DECODERS, MASK_CLASSIFIERS, build_decoder
from semask.build.encoder import Encoder, build_encoder
from semask.build.loss import build_loss
from semask.build.pixel_decoder import PIXEL_DECODERS
from semask.callable_module import make_callable
from semask.data.readers.raster import check_channels
from semask.models.meta import unfilled, weightless
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, get


def build(name: str, num_classes: int | None = None) -> SegmentationModel:
    """Return the model of a recipe with random weights, in evaluation mode; `num_classes` replaces the recipe's."""
    recipe = get(name)
    if num_classes is not None:
        recipe = with_classes(recipe, num_classes)
    return build_model(recipe)


def with_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """Return the recipe for another number of classes."""
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_classes=num_classes))


def build_model(recipe: Recipe) -> SegmentationModel:
    """Return the model of a recipe with random weights, in evaluation mode."""
    spec = recipe.model
    check_numbers(spec)
    check_channels(recipe.data, spec.mean, spec.std)
    encoder = build_encoder(spec.encoder, spec.num_classes, crop=recipe.data.crop, channels=recipe.data.channels)
    decoder = build_decoder(spec.decoder, encoder, spec.num_classes)
    return SegmentationModel(encoder, decoder, num_classes=spec.num_classes, mean=spec.mean, std=spec.std).eval()


def build_weightless(recipe: Recipe) -> SegmentationModel:
    """Return the model of a recipe on the meta device: modules and shapes, which take no memory, and no values."""
    with weightless():
        return build_model(recipe)


def build_unfilled(recipe: Recipe) -> SegmentationModel:
    """Return the model with parameters of shapes alone where it can be built so: for values that come from a file."""
    try:
        with unfilled():
            model = build_model(recipe)
        if not any(buffer.is_meta for buffer in model.buffers()):
            return model
    except RuntimeError:  # timm's Swin V2 computes buffers on the device that its parameters are on
        pass
    return build_model(recipe)


make_callable(__name__, build)

__all__ = [
    "DECODERS",
    "MASK_CLASSIFIERS",
    "PIXEL_DECODERS",
    "Encoder",
    "build",
    "build_decoder",
    "build_encoder",
    "build_loss",
    "build_model",
    "build_unfilled",
    "build_weightless",
    "with_classes",
]
