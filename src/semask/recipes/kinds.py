"""Recipes with a part of another kind, which brings its own defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from semask.recipes.decoders import MASK_CLASSIFIERS, PIXEL_DECODERS, decoder_options, make_options
from semask.recipes.encoders import SemanticLayers, StageProbe
from semask.recipes.recipe import Recipe

AFTER_STAGES: dict[str, Any] = {"layers": SemanticLayers(), "probe": StageProbe(), "none": None}
"""Choices of `--semantic`: semantic layers, the probes that they are compared with, or neither."""

FROM_ABOVE: dict[str, Any] = {"vertical_flip": 0.5, "rotate": True, "scale_range": (0.75, 1.33)}
"""Augmentation of images without an upper side, whose objects have one size."""
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "street": {"vertical_flip": 0.0, "rotate": False, "scale_range": (0.5, 2.0), "hue": (-18, 17)},
    "aerial": {**FROM_ABOVE, "hue": (-9, 9)},
    "microscopy": {**FROM_ABOVE, "hue": (0, 0)},
}
"""Choices of `--augment`, as fields of a DataRecipe."""


def with_augment(recipe: Recipe, name: str) -> Recipe:
    """The recipe with the flips, turns, scales and colours of a kind of images."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"--augment {name}: allowed are {', '.join(AUGMENTATIONS)}")
    fields = {"flip": 0.5, "photometric": True, "scale_choices": None, "short_edges": None, **AUGMENTATIONS[name]}
    return recipe.override({f"data.{field}": value for field, value in fields.items()})


def with_decoder(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with another kind of decoder, in that kind's published form."""
    return recipe.override({"model.decoder": decoder_options(kind)})


def with_pixel_decoder(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with another kind of pixel decoder under its mask classifier."""
    if recipe.model.decoder.kind not in MASK_CLASSIFIERS:
        raise ValueError(
            f"--pixel-decoder {kind}: {recipe.model.decoder.kind} has no pixel decoder; use --decoder with "
            f"{' or '.join(MASK_CLASSIFIERS)} first"
        )
    options = make_options(PIXEL_DECODERS, kind, {}, what="pixel decoder")
    return recipe.override({"model.decoder.pixel_decoder": options})


def with_semantic(recipe: Recipe, choice: str) -> Recipe:
    """The recipe with semantic layers, probes or neither after the encoder's stages."""
    encoder = recipe.model.encoder
    if choice not in AFTER_STAGES:
        raise ValueError(f"--semantic {choice}: allowed are {', '.join(AFTER_STAGES)}")
    if all(field.name != "semantic" for field in fields(encoder)):
        raise ValueError(
            f"--semantic {choice}: {encoder.name!r} is a plain ViT without stages; use --encoder with a hierarchical "
            "backbone, or --decoder with one that reads a pyramid"
        )
    kept = type(encoder.semantic) is type(AFTER_STAGES[choice])
    return recipe if kept else recipe.override({"model.encoder.semantic": AFTER_STAGES[choice]})
