"""From an encoder's recipe to what stands after its stages: semantic layers, or the probes they are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from semask.models.layers.probe import Probe
from semask.models.layers.semantic import SemanticAttention, SemanticLayer
from semask.recipes import EncoderRecipe
from semask.recipes.recipe import SEMANTIC_OPTIONS


def build_after_stages(spec: EncoderRecipe, channels: Sequence[int], num_classes: int) -> list[nn.Module]:
    """Return one module per stage, of the stages' `channels`, or none where the recipe has neither."""
    if spec.probe is not None:
        return [Probe(width, num_classes, queries=spec.probe == "queries") for width in channels]
    return build_semantic_layers(spec, channels, num_classes) if spec.semantic_layers else []


def build_semantic_layers(spec: EncoderRecipe, channels: Sequence[int], num_classes: int) -> list[nn.Module]:
    """Return one semantic layer per stage; every second unit of them all has its windows shifted, if they are."""
    return [
        SemanticLayer(
            width,
            [build_attention(spec, width, num_classes) for _ in shifts],
            window_size=window,
            shifts=shifts,
            residual=spec.semantic_residual,
        )
        for width, window, shifts in zip(channels, spec.semantic_windows, _shifts(spec), strict=True)
    ]


def _shifts(spec: EncoderRecipe) -> list[list[bool]]:
    """Return of every unit of every stage whether its windows are shifted."""
    count = itertools.count()
    return [
        [next(count) % 2 == 1 and spec.semantic_shift and window is not None and window > 1 for _ in range(units)]
        for window, units in zip(spec.semantic_windows, spec.semantic_units, strict=True)
    ]


def build_attention(spec: EncoderRecipe, channels: int, num_classes: int) -> SemanticAttention:
    """Return one unit: attention through class maps, or plain single-head self-attention."""
    return SemanticAttention(
        channels,
        num_classes if spec.semantic_attention == "semantic" else None,
        dropout=spec.semantic_dropout,
        learned_gain=spec.semantic_gain == "learned",
        dead_init=spec.semantic_dead_init,
    )


def check_after_stages(spec: EncoderRecipe, *, swin: bool) -> None:
    """Raise a ValueError where what the recipe says of semantic layers contradicts itself or the backbone."""
    if spec.probe is not None and spec.semantic_layers:
        raise ValueError(
            "probes supervise a backbone without semantic layers; say --model.encoder.semantic-layers false or "
            "--model.encoder.probe None"
        )
    if spec.probe == "queries" and not swin:
        raise ValueError(
            f"queries are read from Swin's blocks, and {spec.name!r} is no Swin; say --model.encoder.probe features"
        )
    idle = [field for field in SEMANTIC_OPTIONS if getattr(spec, field) != getattr(EncoderRecipe(), field)]
    if idle and not spec.semantic_layers:
        flag = idle[0].replace("_", "-")
        raise ValueError(
            f"{', '.join(idle)} speak of semantic layers, and there are none; say "
            f"--model.encoder.semantic-layers true, or --model.encoder.{flag} {getattr(EncoderRecipe(), idle[0])}"
        )
    if spec.semantic_gain == "one" and spec.semantic_dead_init:
        raise ValueError(
            "the dead initialisation is that of a learned λ; say --model.encoder.semantic-gain learned or "
            "--model.encoder.semantic-dead-init false"
        )
    if spec.semantic_shift and not any(any(shifts) for shifts in _shifts(spec)):
        raise ValueError(
            "semantic_shift moves the windows of every second unit, and none of these has windows of 2 tokens or more: "
            f"--model.encoder.semantic-windows is {spec.semantic_windows}; give some to stages 2 and 4, or leave it out"
        )
