from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from semask import recipes
from semask.checkpoints.rules.semask_fpn import rename
from semask.models.build import build, build_on_meta
from semask.recipes import OptimRecipe
from semask.training.optim import build_optimizer, parameter_groups
from tests.facts import facts

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
    rates = by_name(model, replace(recipes.get_recipe("scenes/semask-micro-fpn").optim, lr=1e-3, encoder_lr_scale=0.1))
    encoder = {rate for name, (rate, _) in rates.items() if name.startswith("encoder.")}
    decoder = {rate for name, (rate, _) in rates.items() if not name.startswith("encoder.")}
    assert encoder == {1e-3 * 0.1}
    assert decoder == {1e-3}


def tables_and_norms(model: nn.Module) -> set[str]:
    """Return what detectron2's rule spares, by shapes: layers with a vector as their weight are normalisations."""
    tables = {"query_positions", "query_features", "predictor.level_embeddings", "relative_position_bias_table"}
    names = {name for name, _ in model.named_parameters() if any(name.endswith(table) for table in tables)}
    for name, module in model.named_modules():
        if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            names |= {f"{name}.weight", f"{name}.bias"}
    return names & dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("name", "tables", "others"),
    [
        ("ade20k/resnet50-maskformer", 1, ()),
        ("ade20k/swin-t-mask2former", 3, ("decoder.pixel_decoder.level_embeddings",)),
        ("ade20k/swin-t-fapn-mask2former", 3, ()),
        ("ade20k/swin-t-msfapn-mask2former", 3, ("decoder.pixel_decoder.level_embeddings",)),
        ("camvid/semask-lite0-mask2former", 3, ("decoder.pixel_decoder.level_embeddings",)),
    ],
)
def test_mask_classifiers_decay_all_but_norms_and_tables(name: str, tables: int, others: tuple[str, ...]) -> None:
    recipe = recipes.get_recipe(name)
    model = build_on_meta(recipe)
    rates = by_name(model, recipe.optim)
    spared = tables_and_norms(model)
    assert {name for name, (_, decay) in rates.items() if decay == 0.0} == spared
    assert sum(name.startswith("decoder.predictor.") and "norm" not in name for name in spared) == tables
    assert {decay for _, decay in rates.values()} == {0.0, recipe.optim.weight_decay}
    for other in others:
        assert rates[other][1] == recipe.optim.weight_decay
    encoder = {rate for name, (rate, _) in rates.items() if name.startswith("encoder.")}
    assert encoder == {recipe.optim.lr * recipe.optim.encoder_lr_scale}


def test_semantic_layers_have_the_rate_of_the_encoder() -> None:
    recipe = recipes.get_recipe("camvid/semask-lite0-mask2former")
    rates = by_name(build_on_meta(recipe), recipe.optim)
    semantic = {rate for name, (rate, _) in rates.items() if ".semantic." in name}
    assert semantic == {5e-4 * 0.2}


class Shared(nn.Module):
    """Two layers with one norm, as in FaPN."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), self.first[1])


@pytest.mark.parametrize("decays", [True, False])
def test_a_shared_norm_is_there_once(decays: bool) -> None:
    model = Shared()
    groups = parameter_groups(model, OptimRecipe(weight_decay=0.1, norm_decay=decays))
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members)) == 6
    norm = by_name(model, OptimRecipe(weight_decay=0.1, norm_decay=decays))["first.1.weight"]
    assert norm[1] == (0.1 if decays else 0.0)
    build_optimizer(model, OptimRecipe())  # AdamW warns about parameters that come twice


def test_fapn_hands_every_parameter_to_the_optimiser_once() -> None:
    recipe = recipes.get_recipe("ade20k/swin-t-fapn-mask2former")
    model = build_on_meta(recipe)
    members = [id(parameter) for group in parameter_groups(model, recipe.optim) for parameter in group["params"]]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(members) == len(set(members)) == len(list(model.parameters()))
    assert len(names) - len(members) == 3 * 2, "three norms of a weight and a bias are shared"


def test_frozen_parameters_are_left_out() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    model["encoder"].requires_grad_(False)
    found = {id(p) for group in parameter_groups(model, OptimRecipe()) for p in group["params"]}
    assert found == {id(p) for p in model["decoder"].parameters()}


def test_groups_are_what_adamw_takes() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(build("scenes/micro-fpn"), OptimRecipe(lr=3e-4)))
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}


def test_sgd_has_nesterov_momentum() -> None:
    recipe = recipes.get_recipe("ade20k/seg-t-mask-16").optim
    optimizer = build_optimizer(nn.Linear(2, 2), recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-3, 0.9, True, 0.0)
    without = build_optimizer(nn.Linear(2, 2), replace(recipe, momentum=0.0))
    assert not without.param_groups[0]["nesterov"]


def test_sgd_of_mmsegmentation_has_plain_momentum() -> None:
    (group,) = build_optimizer(nn.Linear(2, 2), recipes.get_recipe("ade20k/fcn-r101").optim).param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.9, False, 5e-4)


def test_adamw_is_the_recipes() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=3e-4, betas=(0.8, 0.95)))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_no_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=facts("optim.lr", 0, f"{lr:g}")):
        build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=lr))


@pytest.mark.parametrize("floor", [-1e-5, 2e-4])
def test_a_floor_above_the_rate(floor: float) -> None:
    with pytest.raises(ValueError, match=facts("optim.lr", "optim.min_lr", "[0, 0.0001]", floor)):
        build_optimizer(nn.Linear(2, 2), OptimRecipe(lr=1e-4, min_lr=floor))
