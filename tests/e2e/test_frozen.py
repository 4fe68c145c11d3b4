"""A decoder on a frozen encoder: what is kept is what the encoder says, and nothing of the encoder moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.build import build_model
from semask.data.dataset import TrainingFiles, training_set
from semask.data.synthetic import SCENE_CLASSES, draw_scene
from semask.recipes import DataRecipe, DecoderRecipe, EncoderRecipe, ModelRecipe, Recipe, TrainRecipe
from semask.training import run
from semask.training.frozen import CachedViews, check_cache, collate_encoded
from semask.training.module import SegmentationModule
from semask.training.options import RunOptions

COUNT = 5


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Return a tiny ViT under a Mask Transformer on a folder of five scenes."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(COUNT):
            image, label = draw_scene(number, (40, 56))
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{number}.png")
    (root / "classes.json").write_text(json.dumps(SCENE_CLASSES.to_dict()))
    classes = len(SCENE_CLASSES)
    encoder = EncoderRecipe(name="vit_tiny_patch16_224", weights=None, image_size=(32, 48), drop_path=0.5)
    return Recipe(
        name="test/frozen",
        model=ModelRecipe(
            encoder=encoder, decoder=DecoderRecipe(name="segmenter_mask", channels=None, layers=1), num_classes=classes
        ),
        data=DataRecipe(root=str(root), crop=(30, 40), scale_range=(0.8, 1.2)),
        train=TrainRecipe(steps=3, batch_size=2, eval_every=3, freeze_encoder=True, cached_views=2),
    )


def draws_of(recipe: Recipe) -> TrainingFiles:
    draws = training_set(recipe.data, seed=recipe.train.seed, mean=recipe.model.mean)
    assert isinstance(draws, TrainingFiles)
    return draws


def test_kept_views_are_the_encoders(recipe: Recipe) -> None:
    torch.manual_seed(0)
    model = build_model(recipe)
    views = CachedViews(draws_of(recipe), model, views=2, workers=0)
    expected = {}
    for draw in range(2 * COUNT):
        image, label, name = draws_of(recipe)[draw]
        with torch.inference_mode():
            expected[draw] = model.encode(image[None]).maps[0][0], model.pad_labels(label[None])[0], name
    for turn in range(3):
        found = [views[turn * len(views) + position] for position in range(len(views))]
        seen = set()
        for sample in found:
            match = [d for d, (maps, *_) in expected.items() if torch.allclose(sample.maps[0], maps, atol=4e-3)]
            assert len(match) == 1, "features of exactly one draw, to half precision"
            seen |= set(match)
            assert torch.equal(sample.label, expected[match[0]][1])
            assert sample.name == expected[match[0]][2]
        assert seen == set(expected), "every view once a turn"
    orders = [tuple(views[turn * len(views) + p].name for p in range(len(views))) for turn in range(3)]
    assert len(set(orders)) == 3
    batch = collate_encoded([views[0], views[1]])
    assert batch.maps[0].shape == (2, 192, 2, 3)
    assert batch.labels.shape == (2, 32, 48)


def test_the_loss_of_kept_features_is_that_of_the_pictures(recipe: Recipe) -> None:
    torch.manual_seed(0)
    module = SegmentationModule(build_model(recipe), lambda out, labels: out.main.logits, recipe).train()
    module.model.decoder.eval()
    draws = draws_of(recipe)
    views = CachedViews(draws, module.model, views=1, workers=0)
    sample = views[0]
    draw = next(d for d in range(COUNT) if draws[d].name == sample.name)
    with torch.no_grad():
        from_pictures = module.model(draws[draw].image[None]).main.logits
        from_kept = module.model.decode(type(module.model.encode(draws[draw].image[None]))((sample.maps[0][None],)))
    np.testing.assert_allclose(from_kept.main.logits, from_pictures, atol=2e-2)


@pytest.mark.parametrize("views", [None, 2])
def test_only_the_decoder_learns(recipe: Recipe, views: int | None, tmp_path: Path) -> None:
    recipe = replace(recipe, train=replace(recipe.train, cached_views=views))
    torch.manual_seed(0)
    result = run.train(recipe, RunOptions(out=tmp_path / "run", workers=0, accelerator="cpu", skip_check=True))
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    trained = [group["params"] for group in saved["optimizer_states"][0]["param_groups"]]
    decoder = build_model(recipe).decoder
    assert sum(map(len, trained)) == len(list(decoder.parameters()))
    assert np.isfinite(result.miou)


def test_a_resumed_run_keeps_the_features_of_its_own_encoder(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder of a run that goes on comes from its checkpoint, before anything is encoded."""
    short = replace(recipe, train=replace(recipe.train, eval_every=2))
    straight = run.train(short, RunOptions(out=tmp_path / "straight", workers=0, skip_check=True))

    class Stop(Exception):
        pass

    calls = []
    step = SegmentationModule.training_step

    def failing(self: SegmentationModule, batch: object, batch_idx: int) -> torch.Tensor:
        calls.append(batch_idx)
        if len(calls) == 3:
            raise Stop
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", failing)
    with pytest.raises(Stop):
        run.train(short, RunOptions(out=tmp_path / "parts", workers=0, skip_check=True))
    monkeypatch.undo()
    run.train(short, RunOptions(out=tmp_path / "parts", workers=0, skip_check=True, resume="latest"))
    one, two = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("straight", "parts")
    )
    assert straight.step > 0
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=0, msg=key)


def test_impossible_wishes(recipe: Recipe, tiny_recipe: Callable[..., Recipe]) -> None:
    def wish(**train: object) -> Recipe:
        return replace(recipe, train=replace(recipe.train, **train))

    with pytest.raises(ValueError, match=r"cached_views must be at least 1, or None to encode every draw.* got 0"):
        check_cache(wish(cached_views=0), 1)
    with pytest.raises(ValueError, match=r"add --train.freeze-encoder true"):
        check_cache(wish(freeze_encoder=False), 1)
    with pytest.raises(ValueError, match=r"in one process; say --train.cached-views None"):
        check_cache(recipe, 2)
    with pytest.raises(ValueError, match=r"in one process; say --train.cached-views None"):
        check_cache(replace(recipe, data=replace(recipe.data, kind="scenes")), 1)
    check_cache(recipe, 1)
    check_cache(wish(cached_views=None), 8)
    semantic = tiny_recipe(TrainRecipe(freeze_encoder=True))
    with pytest.raises(ValueError, match="cannot teach its semantic layers anything"):
        SegmentationModule(build_model(semantic), lambda out, labels: out, semantic)
