"""A recipe that trains in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from semask import recipes
from semask.recipes import Recipe, TrainRecipe


@pytest.fixture
def tiny_recipe() -> Callable[..., Recipe]:
    return _tiny


def _tiny(train: TrainRecipe, *, dropout: float = 0.1, drop_path: float = 0.0) -> Recipe:
    recipe = recipes.get("scenes/semask-micro-fpn")
    encoder = replace(
        recipe.model.encoder, embed_dim=16, depths=(1, 1, 1, 1), drop_path=drop_path, semantic_dropout=dropout
    )
    decoder = replace(recipe.model.decoder, channels=16, dropout=dropout)
    return replace(
        recipe,
        model=replace(recipe.model, encoder=encoder, decoder=decoder),
        data=replace(recipe.data, crop=(32, 32), scene_size=(32, 32), scene_count=5),
        optim=replace(recipe.optim, warmup_steps=2),
        train=train,
        test=replace(recipe.test, batch_size=1),
    )
