"""The menu of decoders: from a decoder's recipe to the decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from semask.build.baselines import BASELINES, WITH_AUXILIARY_HEAD, build_baseline
from semask.build.encoder import Encoder
from semask.build.pixel_decoder import ALIGNED, build_pixel_decoder
from semask.build.setr import SETR_DECODERS, build_setr
from semask.build.sizes import pyramid, single_scale, width_of
from semask.models.decoders.mask2former import Mask2FormerPredictor
from semask.models.decoders.mask_classifier import MaskClassifier
from semask.models.decoders.maskformer import MaskFormerPredictor
from semask.models.decoders.segformer import SegFormer
from semask.models.decoders.segmenter import MaskTransformer, SegmenterLinear
from semask.models.decoders.semantic_fpn import SemanticFPN
from semask.recipes import DecoderRecipe


def build_semantic_fpn(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> SemanticFPN:
    """Return SeMask's decoder over a pyramid, with a neck that of Panoptic FPN."""
    return SemanticFPN(
        pyramid(encoder, spec),
        num_classes=num_classes,
        channels=width_of(spec, encoder),
        dropout=spec.dropout,
        neck=spec.neck,
    )


def build_segformer(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> SegFormer:
    """Return SegFormer's head, in the authors' form or in mmsegmentation's."""
    return SegFormer(
        pyramid(encoder, spec),
        num_classes=num_classes,
        channels=width_of(spec, encoder),
        dropout=spec.dropout,
        form="mmsegmentation" if spec.name == "segformer_mmseg" else "authors",
    )


def build_segmenter_linear(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> SegmenterLinear:
    """Return Segmenter's linear decoder."""
    return SegmenterLinear(single_scale(encoder, spec), num_classes=num_classes)


def build_segmenter_mask(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> MaskTransformer:
    """Return Segmenter's Mask Transformer."""
    return MaskTransformer(
        single_scale(encoder, spec),
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


DECODERS: dict[str, Callable[[DecoderRecipe, Encoder, int], nn.Module]] = {
    "semantic_fpn": build_semantic_fpn,
    "segformer": build_segformer,
    "segformer_mmseg": build_segformer,
    **dict.fromkeys(BASELINES, build_baseline),
    **dict.fromkeys(SETR_DECODERS, build_setr),
    "segmenter_linear": build_segmenter_linear,
    "segmenter_mask": build_segmenter_mask,
    "maskformer": build_maskformer,
    "mask2former": build_mask2former,
}
"""Decoders by name."""
MASK_CLASSIFIERS = ("maskformer", "mask2former")
"""Decoders that give masks, each with a class."""
SUPERVISED: tuple[str, ...] = (*WITH_AUXILIARY_HEAD, *SETR_DECODERS)
"""Per-pixel decoders that can have auxiliary heads on earlier maps."""
_WORDS = {"auxiliary": f"auxiliary heads, which {', '.join(SUPERVISED)} have"}
_SEGMENTERS = ("segmenter_linear", "segmenter_mask")
_READERS: dict[str, tuple[str, ...]] = {
    "auxiliary": SUPERVISED,
    "neck": ("semantic_fpn",),
    "window_size": ("psanet",),
    "single_scale": _SEGMENTERS,
    "drop_path": _SEGMENTERS,
    "pixel_decoder": MASK_CLASSIFIERS,
    "feature_selection": MASK_CLASSIFIERS,
}
"""Fields that only some decoders have, and which ones do."""


def build_decoder(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> nn.Module:
    """Return the decoder of that name; a ValueError lists them, or says which field does not belong to it."""
    if spec.name not in DECODERS:
        raise ValueError(f"no decoder called {spec.name!r}; there are: {', '.join(DECODERS)}")
    _check(spec)
    return DECODERS[spec.name](spec, encoder, num_classes)


def _query_options(spec: DecoderRecipe, encoder: Encoder) -> dict[str, Any]:
    return {
        "width": width_of(spec, encoder),
        "queries": spec.queries,
        "layers": spec.layers,
        "num_heads": spec.heads,
        "hidden": spec.feedforward,
        "dropout": spec.dropout,
    }


def _check(spec: DecoderRecipe) -> None:
    """Refuse counts below 1 and fields that say nothing to this decoder."""
    if spec.neck is not None and spec.neck < 1:
        raise ValueError(f"a neck is at least 1 channel wide, got {spec.neck}; model.decoder.neck None has none")
    masks = spec.name in MASK_CLASSIFIERS
    for name in ("queries", "layers", "heads", "feedforward", "pixel_layers", "pixel_feedforward"):
        if masks and getattr(spec, name) < 1:
            raise ValueError(f"model.decoder.{name} must be at least 1, got {getattr(spec, name)}")
    default = DecoderRecipe()
    idle = [
        field
        for field, readers in _READERS.items()
        if getattr(spec, field) != getattr(default, field) and spec.name not in readers
    ]
    if masks and spec.feature_selection and spec.pixel_decoder not in ALIGNED:
        idle.append("feature_selection")
    if idle:
        under = f" over {spec.pixel_decoder}" if masks else ""
        words = ", ".join(_WORDS.get(field, field) for field in idle)
        raise ValueError(
            f"{spec.name}{under} has no {words}; leave --model.decoder.{idle[0].replace('_', '-')} out, or "
            "choose a recipe that has it"
        )
