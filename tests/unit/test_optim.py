from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from semask import recipes
from semask.build import build
from semask.checkpoints.rules.semask_fpn import rename
from semask.recipes import OptimRecipe
from semask.training.optim import build_optimizer, parameter_groups

LAYOUT = Path(__file__).parents[1] / "reference" / "fixtures" / "semask_swin_t_fpn_150_64x96.layout.json.gz"


def by_name(model: nn.Module, recipe: OptimRecipe) -> dict[str, tuple[float, float]]:
    """Return rate and decay of every parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, recipe)
        for parameter in group["params"]
    }


def published_names() -> dict[str, str]:
    """Return the authors' parameter names by ours; buffers are left out."""
    keys = json.loads(gzip.decompress(LAYOUT.read_bytes()))["layout"]
    model = build("ade20k/semask-swin-t-fpn")
    ours = dict(model.named_parameters())
    return {name: key for key in keys if (name := rename(key)) in ours}


def test_decay_follows_the_published_rule_on_the_published_names() -> None:
    recipe = OptimRecipe(weight_decay=0.05)
    model = build("ade20k/semask-swin-t-fpn")
    rates = by_name(model, recipe)
    published = published_names()
    assert rates.keys() == published.keys() == dict(model.named_parameters()).keys()
    rule = ("norm", "relative_position_bias_table", "absolute_pos_embed")
    undecayed = {name for name, key in published.items() if any(part in key for part in rule)}
    assert {name for name, (_, decay) in rates.items() if decay == 0.0} == undecayed
    assert {decay for _, decay in rates.values()} == {0.0, 0.05}
    assert all(rates[name][1] == 0.05 for name, key in published.items() if ".bn." in key or key.endswith("gamma"))


def test_encoder_scale_spares_the_decoder() -> None:
    model = build("scenes/semask-micro-fpn")
    rates = by_name(model, replace(recipes.get("scenes/semask-micro-fpn").optim, lr=1e-3, encoder_lr_scale=0.1))
    encoder = {rate for name, (rate, _) in rates.items() if name.startswith("encoder.")}
    decoder = {rate for name, (rate, _) in rates.items() if not name.startswith("encoder.")}
    assert encoder == {1e-3 * 0.1}
    assert decoder == {1e-3}


def test_frozen_parameters_are_left_out() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    model["encoder"].requires_grad_(False)
    found = {id(p) for group in parameter_groups(model, OptimRecipe()) for p in group["params"]}
    assert found == {id(p) for p in model["decoder"].parameters()}


def test_groups_are_what_adamw_takes() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(build("scenes/micro-fpn"), OptimRecipe(lr=3e-4)))
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}


def test_sgd_has_nesterov_momentum() -> None:
    recipe = recipes.get("ade20k/seg-t-mask-16").optim
    optimizer = build_optimizer(nn.Linear(2, 2), recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-3, 0.9, True, 0.0)
    plain = build_optimizer(nn.Linear(2, 2), replace(recipe, momentum=0.0))
    assert not plain.param_groups[0]["nesterov"]


def test_adamw_is_the_recipes() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=3e-4, betas=(0.8, 0.95)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_no_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=r"optim.lr must be more than 0"):
        build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=lr))


@pytest.mark.parametrize("floor", [-1e-5, 2e-4])
def test_a_floor_above_the_rate(floor: float) -> None:
    with pytest.raises(ValueError, match=r"optim.min_lr, which must lie in \[0, 0.0001\]"):
        build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=1e-4, min_lr=floor))
