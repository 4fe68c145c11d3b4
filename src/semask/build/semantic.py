"""From an encoder's recipe to what stands after its stages: semantic layers, or the probes they are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from semask.layers.probe import Probe
from semask.layers.semantic import SemanticAttention, SemanticLayer
from semask.recipes import EncoderRecipe


def build_after_stages(spec: EncoderRecipe, channels: Sequence[int], num_classes: int) -> list[nn.Module]:
    """Return one module per stage, of the stages' `channels`, or none where the recipe has neither."""
    if spec.probe is not None:
        return [Probe(width, num_classes, queries=spec.probe == "queries") for width in channels]
    return build_semantic_layers(spec, channels, num_classes) if spec.semantic_layers else []


def build_semantic_layers(spec: EncoderRecipe, channels: Sequence[int], num_classes: int) -> list[nn.Module]:
    """Return one semantic layer per stage; every second unit of them all has its windows shifted, if they are."""
    layers: list[nn.Module] = []
    count = 0
    for width, window, units in zip(channels, spec.semantic_windows, spec.semantic_units, strict=True):
        shifts = [spec.semantic_shift and (count + unit) % 2 == 1 for unit in range(units)]
        attention = [build_attention(spec, width, num_classes) for _ in range(units)]
        layers.append(
            SemanticLayer(width, attention, window_size=window, shifts=shifts, residual=spec.semantic_residual)
        )
        count += units
    return layers


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
    if spec.semantic_gain == "one" and spec.semantic_dead_init:
        raise ValueError(
            "the dead initialisation is that of a learned λ; say --model.encoder.semantic-gain learned or "
            "--model.encoder.semantic-dead-init false"
        )
    if spec.semantic_shift and all(window is None for window in spec.semantic_windows):
        raise ValueError(
            "semantic_shift moves windows, and no stage has any; give --model.encoder.semantic-windows or leave it out"
        )
