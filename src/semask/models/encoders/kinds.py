"""Names of backbones and the options that fit them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import timm

from semask.models.encoders.chain import DILATABLE, FIXED_SIZE, SWIN, SWIN_V2, family_of
from semask.models.encoders.mix_transformer import is_mit
from semask.models.encoders.vit import FAMILIES as VITS
from semask.recipes import Recipe
from semask.recipes.decoders import make_options
from semask.recipes.encoders import KINDS, EncoderOptions
from semask.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD

READ_ONE_STRIDE = ("segmenter", "setr")
"""Kinds of decoders that read maps of one stride, by how their names begin."""
_KIND_OF_FAMILY = {
    **dict.fromkeys(VITS, "vit"),
    "timm.models.hrnet": "hrnet",
    SWIN: "swin",
    **dict.fromkeys(DILATABLE, "dilatable"),
    **dict.fromkeys((*FIXED_SIZE, SWIN_V2), "fixed_size"),
}
"""Kinds of options by timm's module; those of all others are `stages`."""


def encoder_options(name: str, *, pyramid: bool = False, **options: Any) -> EncoderOptions:
    """Options of the named backbone, of the type that fits it; `pyramid` gives a plain ViT four maps.

    Raises:
        ValueError: timm has no such name, or the type has no such option.
    """
    kind = kind_of(name, pyramid=pyramid).kind
    found: EncoderOptions = make_options(KINDS, kind, {"name": name, **options}, what="encoder")
    return found


def with_encoder(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another backbone, normalised as its weights were trained, semantic layers and drop path kept.

    A plain ViT gets a simple pyramid where the decoder reads one.
    """
    before, kind = recipe.model.encoder, recipe.model.decoder.kind
    fitting = kind_of(name, pyramid=not kind.startswith(READ_ONE_STRIDE))
    known = {field.name for field in fields(fitting)}
    kept = {key: getattr(before, key) for key in ("semantic", "drop_path") if key in known and hasattr(before, key)}
    options = fitting(name=name, weights=None if before.weights is None else "timm", **kept)
    changes: dict[str, Any] = {"model.encoder": options}
    if recipe.data.channels == 3:
        changes["model.mean"], changes["model.std"] = image_statistics(name)
    return recipe.override(changes)


def kind_of(name: str, *, pyramid: bool = False) -> type[Any]:
    """Type of options that fits a backbone's name.

    Raises:
        ValueError: There is no such backbone; the message suggests near names.
    """
    kind = "mix_transformer" if is_mit(name) else _KIND_OF_FAMILY.get(family_of(name), "stages")
    return KINDS["pyramid_vit" if kind == "vit" and pyramid else kind]


def image_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that a backbone's weights were trained with."""
    known = None if is_mit(name) else timm.get_pretrained_cfg(name)
    return (IMAGENET_MEAN, IMAGENET_STD) if known is None else (tuple(known.mean), tuple(known.std))
