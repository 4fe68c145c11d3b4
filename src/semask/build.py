"""From a recipe to a model and its loss: the one place where sizes meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from semask.callable_module import make_callable
from semask.decoders.mask2former import Mask2FormerPredictor
from semask.decoders.mask_classifier import MaskClassifier
from semask.decoders.maskformer import MaskFormerPredictor
from semask.decoders.segmenter import MaskTransformer, SegmenterLinear
from semask.decoders.semantic_fpn import SemanticFPN
from semask.encoders.chain import Chain, is_swin, timm_chain
from semask.encoders.hierarchical import HierarchicalEncoder
from semask.encoders.plain import PlainEncoder, is_plain, timm_vit
from semask.layers.semantic import SemanticLayer
from semask.layers.single_scale import SingleScale
from semask.losses.masks import MaskClassificationLoss
from semask.losses.pixel import SegmentationLoss
from semask.model import SegmentationModel
from semask.pixel_decoders.fapn import AlignedLevel
from semask.pixel_decoders.fpn import FPN, Level
from semask.pixel_decoders.msdeform import MSDeform
from semask.recipes import DecoderRecipe, EncoderRecipe, ModelRecipe, Recipe, get
from semask.weightless import weightless

Encoder = HierarchicalEncoder | PlainEncoder

_MAX_CLASSES = 255
"""Label 255 is ignored."""
_SWIN_FIELDS = ("embed_dim", "depths", "num_heads", "window_size")
_VIT_FIELDS = ("image_size", "norm_eps", "position_resize")


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
    _check_numbers(spec)
    _check_decoder(spec.decoder)
    encoder = build_encoder(spec.encoder, spec.num_classes)
    decoder = pick_decoder(spec.decoder.name)(spec.decoder, encoder, spec.num_classes)
    return SegmentationModel(encoder, decoder, num_classes=spec.num_classes, mean=spec.mean, std=spec.std).eval()


def build_weightless(recipe: Recipe) -> SegmentationModel:
    """Return the model of a recipe on the meta device: modules and shapes, which take no memory, and no values."""
    with weightless():
        return build_model(recipe)


def build_encoder(spec: EncoderRecipe, num_classes: int) -> Encoder:
    """Return the backbone, with semantic layers for `num_classes` classes if the recipe has them."""
    return build_plain(spec) if is_plain(spec.name) else build_hierarchical(spec, num_classes)


def build_plain(spec: EncoderRecipe) -> PlainEncoder:
    """Return a plain ViT, which has one stage and no semantic layers."""
    _refuse(spec, _SWIN_FIELDS, "Swin")
    if spec.semantic_layers:
        raise ValueError(
            f"{spec.name!r} is a plain ViT without stages to put semantic layers after; use a hierarchical backbone, "
            "such as Swin, or say --model.encoder.semantic-layers false"
        )
    backbone = timm_vit(spec.name, drop_path=spec.drop_path, image_size=spec.image_size, norm_eps=spec.norm_eps)
    return PlainEncoder(backbone, position_resize=spec.position_resize)


def build_hierarchical(spec: EncoderRecipe, num_classes: int) -> HierarchicalEncoder:
    """Return a backbone of stages, with a semantic layer after each if the recipe has them."""
    swin = is_swin(spec.name)
    _refuse(spec, _VIT_FIELDS, "plain ViTs")
    if not swin:
        _refuse(spec, _SWIN_FIELDS, "Swin")
    given = {field: getattr(spec, field) for field in _SWIN_FIELDS if getattr(spec, field) is not None}
    chain = timm_chain(spec.name, drop_path=spec.drop_path, **given)
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
            dead_init=spec.semantic_dead_init,
        )
        for channels, window, units in zip(chain.channels, spec.semantic_windows, spec.semantic_units, strict=True)
    ]


def build_loss(recipe: Recipe) -> SegmentationLoss | MaskClassificationLoss:
    """Return the loss of a recipe, which depends on what its decoder gives."""
    spec = recipe.loss
    if recipe.model.decoder.name in MASK_CLASSIFIERS:
        if spec.ohem_pixels is not None:
            raise ValueError(
                f"{recipe.model.decoder.name} compares masks and keeps no hardest pixels; say --loss.ohem-pixels None"
            )
        return MaskClassificationLoss(spec.masks, spec.prior_weight, spec.denominator)
    return SegmentationLoss(spec.prior_weight, spec.denominator, spec.ohem_pixels)


def build_semantic_fpn(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> SemanticFPN:
    """Return SeMask's decoder over a pyramid."""
    return SemanticFPN(
        _pyramid(encoder, spec), num_classes=num_classes, channels=_width(spec, encoder), dropout=spec.dropout
    )


def build_segmenter_linear(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> SegmenterLinear:
    """Return Segmenter's linear decoder."""
    return SegmenterLinear(_single_scale(encoder, spec), num_classes=num_classes)


def build_segmenter_mask(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> MaskTransformer:
    """Return Segmenter's Mask Transformer."""
    return MaskTransformer(
        _single_scale(encoder, spec),
        num_classes=num_classes,
        width=spec.channels,
        layers=spec.layers,
        dropout=spec.dropout,
        drop_path=spec.drop_path,
    )


def build_maskformer(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> MaskClassifier:
    """Return MaskFormer's decoder."""
    predictor = MaskFormerPredictor(encoder.channels[-1], num_classes=num_classes, **_query_options(spec, encoder))
    return MaskClassifier(build_pixel_decoder(spec, encoder), predictor)


def build_mask2former(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> MaskClassifier:
    """Return Mask2Former's decoder; with the pixel decoders fapn and msfapn, FaPN's and MSFaPN's."""
    predictor = Mask2FormerPredictor(num_classes=num_classes, **_query_options(spec, encoder))
    return MaskClassifier(build_pixel_decoder(spec, encoder), predictor)


def build_pixel_decoder(spec: DecoderRecipe, encoder: Encoder) -> FPN | MSDeform:
    """Return what refines the pyramid: levels that are merged or aligned, under deformable attention or not."""
    if spec.pixel_decoder not in PIXEL_DECODERS:
        raise ValueError(
            f"{spec.name} needs a pixel decoder, got {spec.pixel_decoder!r}; start from a recipe that has one, such as "
            "folder/semask-swin-t-mask2former, which brings the layers, losses and rates that belong to it, or say "
            f"--model.decoder.pixel-decoder {', '.join(PIXEL_DECODERS[:-1])} or {PIXEL_DECODERS[-1]}"
        )
    channels, width = _pyramid(encoder, spec), _width(spec, encoder)
    level: Callable[[int, int], nn.Module] = Level
    if spec.pixel_decoder in ALIGNED:
        level = partial(AlignedLevel, feature_selection=spec.feature_selection)
    if spec.pixel_decoder in ("fpn", "fapn"):
        return FPN(channels, [level(fine, width) for fine in channels[:-1]], width=width)
    return MSDeform(
        channels,
        level(channels[0], width),
        width=width,
        layers=spec.pixel_layers,
        num_heads=spec.heads,
        hidden=spec.pixel_feedforward,
    )


DECODERS: dict[str, Callable[[DecoderRecipe, Encoder, int], nn.Module]] = {
    "semantic_fpn": build_semantic_fpn,
    "segmenter_linear": build_segmenter_linear,
    "segmenter_mask": build_segmenter_mask,
    "maskformer": build_maskformer,
    "mask2former": build_mask2former,
}
"""Decoders by name."""
MASK_CLASSIFIERS = ("maskformer", "mask2former")
"""Decoders that give masks, each with a class."""
PIXEL_DECODERS = ("fpn", "msdeform", "fapn", "msfapn")
"""What refines the pyramid under them."""
ALIGNED = ("fapn", "msfapn")
"""Those whose levels are aligned."""


def pick_decoder(name: str) -> Callable[[DecoderRecipe, Encoder, int], nn.Module]:
    """Return the builder of the decoder of that name; a ValueError lists them."""
    if name not in DECODERS:
        raise ValueError(f"no decoder called {name!r}; there are: {', '.join(DECODERS)}")
    return DECODERS[name]


def _query_options(spec: DecoderRecipe, encoder: Encoder) -> dict[str, Any]:
    return {
        "width": _width(spec, encoder),
        "queries": spec.queries,
        "layers": spec.layers,
        "num_heads": spec.heads,
        "hidden": spec.feedforward,
        "dropout": spec.dropout,
    }


def _width(spec: DecoderRecipe, encoder: Encoder) -> int:
    return encoder.channels[0] if spec.channels is None else spec.channels


def _pyramid(encoder: Encoder, spec: DecoderRecipe) -> tuple[int, ...]:
    if len(encoder.channels) == 1:
        raise ValueError(
            f"{spec.name} reads a pyramid of maps, and a plain ViT gives one; use segmenter_linear or segmenter_mask "
            "(--model.decoder.name), or a hierarchical backbone"
        )
    return encoder.channels


def _single_scale(encoder: Encoder, spec: DecoderRecipe) -> SingleScale:
    return SingleScale(encoder.channels, encoder.strides, source=spec.single_scale, width=spec.channels)


def _check_decoder(spec: DecoderRecipe) -> None:
    """Refuse counts below 1 and fields that say nothing to this decoder."""
    if spec.name in MASK_CLASSIFIERS:
        for name in ("queries", "layers", "heads", "feedforward", "pixel_layers", "pixel_feedforward"):
            if getattr(spec, name) < 1:
                raise ValueError(f"model.decoder.{name} must be at least 1, got {getattr(spec, name)}")
        idle = {"drop_path": spec.drop_path != 0, "single_scale": spec.single_scale is not None}
        idle["feature_selection"] = spec.feature_selection and spec.pixel_decoder not in ALIGNED
    else:
        idle = {"pixel_decoder": spec.pixel_decoder is not None, "feature_selection": spec.feature_selection}
    given = [name for name, said in idle.items() if said]
    if given:
        under = f" over {spec.pixel_decoder}" if spec.name in MASK_CLASSIFIERS else ""
        raise ValueError(
            f"{spec.name}{under} has no {', '.join(given)}; leave --model.decoder.{given[0].replace('_', '-')} out, or "
            "choose a recipe that has it"
        )


def _check_numbers(spec: ModelRecipe) -> None:
    width = spec.decoder.channels
    if width is not None and width < 1:
        raise ValueError(f"a decoder is at least 1 channel wide, got {width}; None takes the encoder's width")
    rates = {
        "encoder.drop_path": spec.encoder.drop_path,
        "encoder.semantic_dropout": spec.encoder.semantic_dropout,
        "decoder.dropout": spec.decoder.dropout,
        "decoder.drop_path": spec.decoder.drop_path,
    }
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"model.{name} is a rate and lies in [0, 1), got {rate:g}")


def _refuse(spec: EncoderRecipe, fields: tuple[str, ...], whose: str) -> None:
    """Refuse fields that say nothing to this backbone."""
    given = [field for field in fields if getattr(spec, field) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} can be set for {whose} only, not for {spec.name!r}; unset with "
            + " ".join(f"--model.encoder.{field.replace('_', '-')} None" for field in given)
            + ", or choose a recipe without them"
        )


make_callable(__name__, build)
