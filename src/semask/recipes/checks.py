"""Refusals before a model is built: numbers out of range and options that contradict each other."""

from __future__ import annotations

from semask.recipes.encoders import EncoderOptions, SemanticLayers, StageProbe, SwinOptions
from semask.recipes.recipe import ModelRecipe

MAX_CLASSES = 255
"""Label 255 is ignored."""


def check_model(spec: ModelRecipe) -> None:
    """Check a model's options.

    Raises:
        ValueError: A number is out of range, or options of semantic layers contradict each other or the backbone.
    """
    if not 2 <= spec.num_classes <= MAX_CLASSES:
        raise ValueError(
            f"num_classes must lie in 2 … {MAX_CLASSES}, got {spec.num_classes}; to find one kind of thing, make it "
            "and the rest two classes"
        )
    if not all(deviation > 0 for deviation in spec.std):
        raise ValueError(
            f"model.std divides the channels and must be above 0, got {' '.join(f'{value:g}' for value in spec.std)}; "
            "where a channel has one value everywhere, use 1"
        )
    rates, counts = ("drop_path", "dropout"), ("channels", "neck", "layers", "queries", "heads", "feedforward")
    for part, options in (
        ("encoder", spec.encoder),
        ("encoder.semantic", spec.encoder.semantic),
        ("decoder", spec.decoder),
        ("decoder.pixel_decoder", getattr(spec.decoder, "pixel_decoder", None)),
    ):
        for name in rates:
            rate = getattr(options, name, 0)
            if not 0 <= rate < 1:
                raise ValueError(f"model.{part}.{name} is a rate and must lie in [0, 1), got {rate:g}")
        for name in counts:
            count = getattr(options, name, None)
            if count is not None and count < 1:
                raise ValueError(f"model.{part}.{name} must be at least 1, got {count}")
    _check_semantic(spec.encoder)


def _check_semantic(encoder: EncoderOptions) -> None:
    options = encoder.semantic
    if isinstance(options, StageProbe) and options.reads == "queries" and not isinstance(encoder, SwinOptions):
        raise ValueError(
            f"queries are read from Swin's blocks, and {encoder.name!r} is no Swin; use "
            "--model.encoder.semantic.reads features"
        )
    if not isinstance(options, SemanticLayers):
        return
    if options.gain == "one" and options.dead_init:
        raise ValueError(
            "the dead initialisation is that of a learned λ; use --model.encoder.semantic.gain learned or "
            "--model.encoder.semantic.dead-init false"
        )
    if options.shift and not any(any(stage) for stage in options.shifts()):
        raise ValueError(
            "semantic.shift moves the windows of every second unit, and none of these has windows of 2 tokens or more: "
            f"--model.encoder.semantic.windows is {options.windows}; give some to stages 2 and 4, or leave it out"
        )
