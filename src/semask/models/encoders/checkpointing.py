"""Activation checkpointing of an encoder's stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def checkpoint_stages(encoder: nn.Module, stages: Sequence[int], *, flag: str = "--train.checkpoint-stages") -> None:
    """Let the backward pass compute these stages (1 is the finest) again instead of keeping their activations.

    Loss and gradients stay the same, stochastic depth included; a step takes up to a third longer. A plain ViT has one
    stage, whose blocks are computed again one by one.

    Raises:
        ValueError: The encoder has no such stages; the message names them and the `flag`.
    """
    count = int(getattr(encoder, "num_checkpointable", 0))
    if stages and not count:
        raise ValueError(
            f"{type(encoder).__name__} exchanges maps between its stages, none of which can be checkpointed alone; "
            f"use {flag} without a number, or choose another backbone"
        )
    if any(not 1 <= stage <= count for stage in stages):
        there = "1 … 4, finest first" if count > 1 else "1 alone, all of a plain ViT"
        raise ValueError(
            f"the stages that can be checkpointed are {there}; got {' '.join(map(str, stages))}; use "
            f"{flag} {' '.join(str(stage + 1) for stage in range(count))}"
        )
    encoder.checkpointed_stages = frozenset(stages)  # type: ignore[assignment]
