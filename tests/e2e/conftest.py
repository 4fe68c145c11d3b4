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


@pytest.fixture
def tiny_masks() -> Callable[..., Recipe]:
    """The same under Mask2Former, with one more class than queries."""

    def masks(train: TrainRecipe, *, dropout: float = 0.1, drop_path: float = 0.0, dead: bool = False) -> Recipe:
        recipe = _tiny(train, dropout=dropout, drop_path=drop_path)
        own = recipes.get_recipe("scenes/semask-micro-mask2former")
        decoder = replace(
            own.model.decoder,
            channels=64,
            dropout=dropout,
            queries=recipe.model.num_classes - 1,
            layers=2,
            feedforward=16,
            pixel_decoder=replace(own.model.decoder.pixel_decoder, layers=1, feedforward=16),
        )
        encoder = replace(recipe.model.encoder, semantic=replace(recipe.model.encoder.semantic, dead_init=dead))
        return replace(
            recipe,
            name=own.name,
            model=replace(recipe.model, encoder=encoder, decoder=decoder),
            loss=replace(own.loss, masks=replace(own.loss.masks, points=64)),
            optim=replace(own.optim, warmup_steps=2),
        )

    return masks


def _tiny(train: TrainRecipe, *, dropout: float = 0.1, drop_path: float = 0.0) -> Recipe:
    recipe = recipes.get_recipe("scenes/semask-micro-fpn")
    encoder = replace(
        recipe.model.encoder,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        drop_path=drop_path,
        semantic=replace(recipe.model.encoder.semantic, dropout=dropout),
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
