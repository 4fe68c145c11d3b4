"""From a recipe to a model and its loss: the one place where sizes meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from semask.callable_module import make_callable
from semask.decoders.semantic_fpn import SemanticFPN
from semask.encoders.chain import Chain, is_swin, timm_chain
from semask.encoders.hierarchical import HierarchicalEncoder
from semask.layers.semantic import SemanticLayer
from semask.losses.pixel import SegmentationLoss
from semask.model import SegmentationModel
from semask.recipes import EncoderRecipe, LossRecipe, Recipe, get

DECODERS: dict[str, Callable[..., nn.Module]] = {"semantic_fpn": SemanticFPN}
"""Decoders by name: (in_channels, *, num_classes, channels, dropout) → module."""

_MAX_CLASSES = 255
"""Label 255 is ignored."""


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
    if not 1 <= spec.num_classes <= _MAX_CLASSES:
        raise ValueError(f"num_classes must lie in 1 … {_MAX_CLASSES}, got {spec.num_classes}")
    encoder = build_encoder(spec.encoder, spec.num_classes)
    decoder = pick_decoder(spec.decoder.name)(
        encoder.channels,
        num_classes=spec.num_classes,
        channels=spec.decoder.channels,
        dropout=spec.decoder.dropout,
    )
    return SegmentationModel(encoder, decoder, num_classes=spec.num_classes, mean=spec.mean, std=spec.std).eval()


def build_encoder(spec: EncoderRecipe, num_classes: int) -> HierarchicalEncoder:
    """Return the backbone, with semantic layers for `num_classes` classes if the recipe has them."""
    swin = is_swin(spec.name)
    chain = timm_chain(spec.name, drop_path=spec.drop_path, **_swin_options(spec, swin=swin))
    semantic = build_semantic_layers(spec, chain, num_classes) if spec.semantic_layers else []
    norms = [nn.LayerNorm(channels) for channels in chain.channels] if swin else []
    return HierarchicalEncoder(chain, semantic=semantic, norms=norms)


def build_semantic_layers(spec: EncoderRecipe, chain: Chain, num_classes: int) -> list[SemanticLayer]:
    """Return one semantic layer per stage."""
    return [
        SemanticLayer(
            channels,
            num_classes,
            window_size=window,
            num_units=units,
            dropout=spec.semantic_dropout,
            residual=spec.semantic_residual,
        )
        for channels, window, units in zip(chain.channels, spec.semantic_windows, spec.semantic_units, strict=True)
    ]


def build_loss(spec: LossRecipe) -> SegmentationLoss:
    """Return the loss of a recipe."""
    return SegmentationLoss(spec.prior_weight, spec.denominator, spec.ohem_pixels)


def pick_decoder(name: str) -> Callable[..., nn.Module]:
    """Return the decoder of that name; a ValueError lists them."""
    if name not in DECODERS:
        raise ValueError(f"no decoder called {name!r}; there are: {', '.join(DECODERS)}")
    return DECODERS[name]


def _swin_options(spec: EncoderRecipe, *, swin: bool) -> dict[str, object]:
    fields = ("embed_dim", "depths", "num_heads", "window_size")
    given = {field: getattr(spec, field) for field in fields if getattr(spec, field) is not None}
    if given and not swin:
        raise ValueError(
            f"{', '.join(given)} can be set for Swin only, not for {spec.name!r}; unset with "
            + " ".join(f"--model.encoder.{field.replace('_', '-')} None" for field in given)
            + ", or choose a recipe without them"
        )
    return given


make_callable(__name__, build)
