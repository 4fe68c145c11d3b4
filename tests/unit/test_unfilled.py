"""Models whose values come from a file: built without drawing random ones, and the same in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semask.checkpoints import store
from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.models.meta import skip_init
from semask.recipes import Recipe, get_recipe

RECIPES = ("scenes/semask-micro-fpn", "scenes/micro-seg", "scenes/semask-micro-mask2former", "scenes/micro-seg-mask")


def with_encoder(name: str) -> Recipe:
    recipe = get_recipe("scenes/micro-fpn")
    encoder = encoder_options(name, weights=None)
    return replace(recipe, model=replace(recipe.model, encoder=encoder))


@pytest.mark.parametrize("name", RECIPES)
def test_buffers_have_values_and_parameters_none(name: str) -> None:
    with skip_init():
        model = build(get_recipe(name))
    usual = dict(build(get_recipe(name)).named_buffers())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert dict(model.named_buffers()).keys() == usual.keys()
    assert all(torch.equal(value, usual[key]) for key, value in model.named_buffers())


@pytest.mark.parametrize(
    "recipe", [*map(get_recipe, RECIPES), with_encoder("swinv2_tiny_window8_256"), with_encoder("resnet18")]
)
def test_what_is_loaded_is_what_was_saved(recipe: Recipe, tmp_path: Path) -> None:
    """To the bit, in the types of the model, and ready to be trained; nothing of it lies in the file."""
    model = build(recipe)
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    store.save(model, tmp_path)
    loaded = store.load(tmp_path).model
    (tmp_path / "model.safetensors").write_bytes(b"")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) and value.dtype == theirs[key].dtype for key, value in ours.items())
    assert not loaded.training
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.labels(images), model.labels(images))


def test_reading_draws_no_random_numbers(tmp_path: Path) -> None:
    recipe = get_recipe("scenes/semask-micro-fpn")
    store.save(build(recipe), tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    store.load(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_other_modules_are_filled_afterwards() -> None:
    with skip_init():
        assert torch.nn.Linear(2, 3).weight.is_meta
    assert not torch.nn.Linear(2, 3).weight.is_meta
