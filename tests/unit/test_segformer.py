"""SegFormer's head in both forms, written out a second time; costs of the recipes; published training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semask import recipes
from semask.models.build import build_on_meta
from semask.models.decoders.segformer import Form, SegFormer
from semask.models.flops import all_multiply_adds, parameters
from semask.ops.reference import reference_mode
from semask.structures import Features

WIDTHS = (6, 10, 12, 16)
# Millions of parameters and 10⁹ multiply-adds, attention's included, at the crop. SegFormer, table 1; those of
# mmsegmentation's form were measured on its code.
COSTS = {
    "ade20k/segformer-b0": (3.8, 8.4),
    "ade20k/segformer-b1": (13.7, 15.9),
    "ade20k/segformer-b2": (27.5, 62.4),
    "ade20k/segformer-b3": (47.3, 79.0),
    "ade20k/segformer-b4": (64.1, 95.7),
    "ade20k/segformer-b5": (84.7, 183.3),
    "ade20k/segformer-b4-mmseg": (61.408086, 58.9093),
}
SLOW = ("b2", "b3", "b4", "b5", "mmseg")


@pytest.mark.parametrize("form", ["authors", "mmsegmentation"])
def test_the_head_by_hand(form: Form) -> None:
    torch.manual_seed(0)
    head = SegFormer(WIDTHS, num_classes=3, channels=8, form=form).eval()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "running" in name else tensor.normal_()
    grids = ((9, 13), (5, 7), (3, 4), (2, 2))
    maps = tuple(torch.randn(2, width, *grid) for width, grid in zip(WIDTHS, grids, strict=True))
    state = head.state_dict()

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.bn.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        x = torch.einsum("bihw,oi->bohw", x, state[f"{name}.conv.weight"][:, :, 0, 0])
        return ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)

    levels = []
    for stage, level in enumerate(maps):
        if form == "authors":
            weight, bias = state[f"branches.{stage}.weight"], state[f"branches.{stage}.bias"]
            level = torch.einsum("bihw,oi->bohw", level, weight[:, :, 0, 0]) + bias[:, None, None]  # noqa: PLW2901
        else:
            level = normed(level, f"branches.{stage}")  # noqa: PLW2901
        levels.append(F.interpolate(level, grids[0], mode="bilinear", align_corners=False))
    fused = normed(torch.cat(levels[::-1] if form == "authors" else levels, dim=1), "fuse")
    expected = torch.einsum("bihw,oi->bohw", fused, state["classify.weight"][:, :, 0, 0])
    expected = expected + state["classify.bias"][:, None, None]
    with torch.inference_mode():
        out = head(Features(maps))
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith(SLOW) else ()) for name in COSTS]
)
def test_published_costs(name: str) -> None:
    recipe, (million, billion) = recipes.get_recipe(name), COSTS[name]
    model = build_on_meta(recipe)
    assert parameters(model) / 1e6 == pytest.approx(million, rel=1e-6 if "mmseg" in name else 0.002, abs=0.05)
    assert all_multiply_adds(model, *recipe.data.crop) / 1e9 == pytest.approx(billion, rel=0.002)
    if recipe.published.parameters is not None:
        assert (recipe.published.parameters, recipe.published.all_flops) == (million, billion)


def test_every_row_has_a_cost() -> None:
    rows = {name for name in recipes.list_recipes() if name.startswith("ade20k/segformer")}
    assert rows == set(COSTS)


@pytest.mark.parametrize("name", [*COSTS, "ade20k/semask-segformer-b4"])
def test_published_training(name: str) -> None:
    recipe = recipes.get_recipe(name)
    optim, train, data = recipe.optim, recipe.train, recipe.data
    assert (optim.algorithm, optim.betas, optim.weight_decay) == ("adamw", (0.9, 0.999), 0.01)
    assert optim.lr * optim.encoder_lr_scale == pytest.approx(6e-5)
    assert optim.lr == pytest.approx(6e-4)
    assert "norm" in optim.no_decay
    assert (optim.schedule, optim.power, optim.min_lr) == ("poly", 1.0, 0.0)
    assert (optim.warmup_steps, optim.warmup_ratio) == (1500, 1e-6)
    assert (train.steps, train.batch_size) == (160_000, 16)
    side = 640 if name.endswith("b5") else 512
    assert (data.crop, data.scale_range, data.cat_max_ratio) == ((side, side), (0.5, 2.0), 0.75)
    assert data.base_scale == (2048, side)
    assert recipe.model.encoder.drop_path == 0.1
    assert recipe.test.mode == "whole"
    assert recipe.model.encoder.weights == "timm", "a run without weights must be wanted"


def test_norms_of_the_encoder_alone_do_not_decay() -> None:
    """As by mmsegmentation's rule on names: BatchNorms of the head are called bn."""
    from semask.training.optim import decays

    recipe = recipes.get_recipe("ade20k/segformer-b0")
    model = build_on_meta(recipe)
    kept = {name for name, _ in model.named_parameters() if not decays(name, recipe.optim)}
    norms = {
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for kind in ("weight", "bias")
    }
    assert kept == norms


@pytest.mark.parametrize("num_classes", [1, 19, 150])
@pytest.mark.parametrize("form", ["authors", "mmsegmentation"])
def test_fused_level_by_level_as_side_by_side(form: Form, num_classes: int) -> None:
    torch.manual_seed(0)
    head = SegFormer(WIDTHS, num_classes=num_classes, channels=8, dropout=0.0, form=form)
    grids = ((9, 13), (5, 7), (3, 4), (2, 2))
    maps = tuple(torch.randn(2, w, *grid, requires_grad=True) for w, grid in zip(WIDTHS, grids, strict=True))
    found = []
    for choice in (True, False):
        with reference_mode(choice):
            logits = head(Features(maps)).logits
        # A bias in front of BatchNorm has no gradient but for rounding.
        inputs = [*maps, *(p for name, p in head.named_parameters() if not name.startswith("branches"))]
        found.append((logits, *torch.autograd.grad(logits.square().sum(), inputs)))
    for plain, fast in zip(*found, strict=True):
        scale = plain.abs().max()
        torch.testing.assert_close(fast / scale, plain / scale, rtol=1e-4, atol=1e-5)
