"""Refusals before a model is built."""

from __future__ import annotations

from semask.recipes.bounds import check_numbers
from semask.recipes.encoders import SemanticLayers, StageProbe, SwinOptions
from semask.recipes.recipe import ModelRecipe


def check_model(spec: ModelRecipe) -> None:
    """Check a model's options.

    Raises:
        ValueError: A number is out of range, or options of semantic layers contradict each other or the backbone.
    """
    check_numbers(spec, "model")
    encoder, options = spec.encoder, spec.encoder.semantic
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
