"""Which parameters decay and at which rate, and how the rate runs over the steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from semask.recipes import OptimRecipe

ParameterGroup = dict[str, object]
BLOCK = re.compile(
    r"encoder\.(?!semantic\.|levels\.)(?:[A-Za-z_]\w*\.)*?(?!norm|bn)[A-Za-z_]\w*?[._]?\d+(?:\.(?:\w+\.)?\d+)?(?=\.)(?!\.norm\.)"
)
"""Names of blocks, with or without their stage's."""
FRESH = ("encoder.semantic.", "encoder.levels.")
"""Layers that start anew: semantic layers, and the pyramid of a plain ViT."""
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def check_rates(recipe: OptimRecipe) -> None:
    """Raise a ValueError unless the learning rate falls, from a positive one."""
    if not 0 <= recipe.min_lr <= recipe.lr or recipe.lr <= 0:
        raise ValueError(
            f"the learning rate falls from optim.lr to optim.min_lr, which must lie in [0, {recipe.lr:g}], got "
            f"{recipe.min_lr:g}"
        )


def build_optimizer(model: nn.Module, recipe: OptimRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the parameters that are trained.

    Raises:
        ValueError: The rates are wrong.

    Source: AdamW, SeMask §4; SGD with Nesterov's momentum, Segmenter's authors' code.
    """
    check_rates(recipe)
    groups = parameter_groups(model, recipe)
    if recipe.algorithm == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas)


def parameter_groups(model: nn.Module, recipe: OptimRecipe) -> list[ParameterGroup]:
    """Return the optimiser's groups: encoder and rest, each with and without weight decay; empty groups are left out.

    With `recipe.layer_decay` every block of the encoder has a rate, and a group, of its own.

    A parameter whose name contains one of `recipe.no_decay` is not decayed, nor, where `recipe.norm_decay` is False, is
    one of a normalisation layer. All others are: biases, λ and, in SeMask-FPN, the head's BatchNorm (named `bn`).
    Our names agree with the published ones in this respect. A parameter that two layers share is there once.

    Source: SeMask's recipes (mmsegmentation's paramwise_cfg, detectron2's rule by the kind of layer).
    """
    norms = {id(parameter) for layer in model.modules() if isinstance(layer, NORMS) for parameter in layer.parameters()}
    above = blocks_above([name for name, _ in model.named_parameters()]) if recipe.layer_decay < 1 else {}
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = decays(name, recipe) and (recipe.norm_decay or id(parameter) not in norms)
        groups.setdefault((name.startswith("encoder."), decay, above.get(name, 0)), []).append(parameter)
    return [
        {
            "name": f"{'encoder' if in_encoder else 'decoder'}{'' if decay else ', no decay'}"
            f"{f', {blocks} blocks below the last' if blocks else ''}",
            "params": parameters,
            "lr": recipe.lr * (recipe.encoder_lr_scale if in_encoder else 1.0) * recipe.layer_decay**blocks,
            "weight_decay": recipe.weight_decay if decay else 0.0,
        }
        for (in_encoder, decay, blocks), parameters in groups.items()
    ]


def blocks_above(names: Sequence[str]) -> dict[str, int]:
    """Number of blocks from each parameter of the encoder to the end of the encoder.

    Blocks are those of its lists, stage by stage, in their order: `blocks.3` of a ViT, `layers.0.blocks.1` of a Swin.
    Patch embedding and positions, before all of them, are one block more; layers that start anew count as the last one.

    Source: layer-wise learning rates of BEiT (arXiv:2106.08254) §A.
    """
    found = {name: BLOCK.match(name) for name in names if name.startswith("encoder.")}
    blocks = [*dict.fromkeys(match[0] for match in found.values() if match)]
    above, here = {}, len(blocks)
    for name, match in found.items():
        if match:
            here = len(blocks) - 1 - blocks.index(match[0])
        # norms between blocks belong to the block before them
        above[name] = 0 if name.startswith(FRESH) else here
    return above


def decays(name: str, recipe: OptimRecipe) -> bool:
    """Say whether the parameter of that name is decayed."""
    return not any(part in name for part in recipe.no_decay)


def poly_schedule(
    step: int, *, steps: int, power: float, warmup_steps: int = 0, warmup_ratio: float = 1.0, floor: float = 0.0
) -> float:
    """Return the factor on the learning rate at `step` (0-based): (1 - f)(1 - t/T)^p + f, times a linear warm-up.

    For t < W the factor is multiplied by 1 - (1 - t/W)(1 - r). It is the `floor` f from step T on.

    Source: SeMask's recipes (mmcv 1.3's poly policy with linear warm-up, f = 0); Segmenter's authors' code (W = 0).
    """
    factor = float((1 - floor) * max(1 - step / steps, 0.0) ** power + floor)
    return factor * _warmth(step, warmup_steps, warmup_ratio)


def cosine_schedule(
    step: int, *, steps: int, warmup_steps: int = 0, warmup_ratio: float = 1.0, floor: float = 0.0
) -> float:
    """Return the factor on the learning rate at `step` (0-based): 1 after a linear warm-up, then half a cosine to f.

    For t < W it is 1 - (1 - t/W)(1 - r), then (1 - f)(1 + cos π(t - W)/(T - W))/2 + f, and the `floor` f from T on.

    Source: SGDR (arXiv:1608.03983) eq. 5; the warm-up of DeiT (arXiv:2012.12877).
    """
    progress = min(max(step - warmup_steps, 0) / max(steps - warmup_steps, 1), 1.0)
    factor = (1 - floor) * (1 + math.cos(math.pi * progress)) / 2 + floor
    return factor * _warmth(step, warmup_steps, warmup_ratio)


def schedule(recipe: OptimRecipe, steps: int, lr: float) -> Callable[[int], float]:
    """Return the recipe's factor on the learning rate `lr` of a group, as a function of the step.

    Every group falls to the same `min_lr`, and none below: one that begins lower than that stays where it is.
    """
    fall: Callable[..., float] = cosine_schedule
    if recipe.schedule == "poly":
        fall = partial(poly_schedule, power=recipe.power)
    return partial(
        fall,
        steps=steps,
        warmup_steps=recipe.warmup_steps,
        warmup_ratio=recipe.warmup_ratio,
        floor=min(recipe.min_lr / lr, 1.0),
    )


def _warmth(step: int, warmup_steps: int, ratio: float) -> float:
    return 1 - (1 - step / warmup_steps) * (1 - ratio) if step < warmup_steps else 1.0
