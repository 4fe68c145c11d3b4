"""Which parameters decay and at which rate, and how the rate runs over the steps."""

from __future__ import annotations

from torch import nn

from semask.recipes import OptimRecipe

ParameterGroup = dict[str, object]


def parameter_groups(model: nn.Module, recipe: OptimRecipe) -> list[ParameterGroup]:
    """Return AdamW's groups: encoder and rest, each with and without weight decay; empty groups are left out.

    A parameter whose name contains one of `recipe.no_decay` is not decayed; biases, the head's BatchNorm (named `bn`)
    and λ are. Our names agree with the published ones in this respect.

    Source: SeMask's recipes (mmsegmentation's paramwise_cfg).
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (name.startswith("encoder."), decays(name, recipe))
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "name": f"{'encoder' if in_encoder else 'decoder'}{'' if decay else ', no decay'}",
            "params": parameters,
            "lr": recipe.lr * (recipe.encoder_lr_scale if in_encoder else 1.0),
            "weight_decay": recipe.weight_decay if decay else 0.0,
        }
        for (in_encoder, decay), parameters in groups.items()
    ]


def decays(name: str, recipe: OptimRecipe) -> bool:
    """Say whether the parameter of that name is decayed."""
    return not any(part in name for part in recipe.no_decay)


def poly_schedule(step: int, *, steps: int, power: float, warmup_steps: int, warmup_ratio: float) -> float:
    """Return the factor on the learning rate at `step` (0-based): (1 - t/T)^p, times a linear warm-up.

    For t < W the factor is multiplied by 1 - (1 - t/W)(1 - r). It is 0 from step T on.

    Source: SeMask's recipes (mmcv 1.3's poly policy with linear warm-up).
    """
    factor = float(max(1 - step / steps, 0.0) ** power)
    if step < warmup_steps:
        factor *= 1 - (1 - step / warmup_steps) * (1 - warmup_ratio)
    return factor
