"""A decoder on a frozen encoder: what is kept is what the encoder says, and nothing of the encoder moves."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.dataset import TrainingFiles, training_set, validation_set
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.recipes import (
    DataRecipe,
    LossRecipe,
    MaskLossRecipe,
    ModelRecipe,
    Recipe,
    TrainRecipe,
)
from semask.recipes.decoders import PIXEL_DECODERS, decoder_options
from semask.recipes.encoders import StageProbe
from semask.structures import IGNORE, EncodedBatch, Features
from semask.training import run
from semask.training.datamodule import SegmentationData
from semask.training.frozen import CachedViews, check_frozen, collate_encoded
from semask.training.module import SegmentationModule
from semask.training.options import RunOptions
from tests.facts import facts

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
    encoder = encoder_options("vit_tiny_patch16_224", weights=None, image_size=(32, 48), drop_path=0.5)
    return Recipe(
        name="test/frozen",
        model=ModelRecipe(
            encoder=encoder, decoder=decoder_options("segmenter_mask", channels=None, layers=1), num_classes=classes
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
    model = build(recipe)
    views = CachedViews(draws_of(recipe), model, count=2 * COUNT, workers=0)
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


def test_logits_of_kept_features_are_those_of_the_pictures(recipe: Recipe) -> None:
    torch.manual_seed(0)
    module = SegmentationModule(build(recipe), lambda out, labels: out.main.logits, recipe).train()
    module.model.decoder.eval()
    draws = draws_of(recipe)
    views = CachedViews(draws, module.model, count=COUNT, workers=0)
    sample = views[0]
    draw = next(d for d in range(COUNT) if draws[d].name == sample.name)
    with torch.no_grad():
        from_pictures = module.model(draws[draw].image[None]).main.logits
        from_kept = module.model.decode(Features((sample.maps[0][None],)))
    np.testing.assert_allclose(from_kept.main.logits, from_pictures, atol=2e-2)


PYRAMID = encoder_options("mobilenetv3_small_050", weights=None)
MASKS = decoder_options(
    "mask2former",
    channels=64,
    dropout=0.0,
    queries=5,
    layers=2,
    feedforward=16,
    pixel_decoder=PIXEL_DECODERS["msdeform"](layers=1, feedforward=16),
)
BACKBONES = {
    "vit": (encoder_options("vit_tiny_patch16_224", weights=None, image_size=(32, 48), drop_path=0.5), {}),
    "batch norm": (PYRAMID, {"single_scale": "last"}),
    "mask classifier": (PYRAMID, MASKS),
}


def over(recipe: Recipe, backbone: str) -> Recipe:
    encoder, fields = BACKBONES[backbone]
    decoder = replace(recipe.model.decoder, **fields) if isinstance(fields, dict) else fields
    model = replace(recipe.model, encoder=encoder, decoder=decoder)
    return replace(recipe, model=model, loss=LossRecipe(masks=MaskLossRecipe(points=64)))


def test_masks_of_kept_features_are_those_of_the_pictures(recipe: Recipe) -> None:
    """A mask classifier has pictures of 30×40 px padded to 32×64; its labels are kept as padded."""
    recipe = over(recipe, "mask classifier")
    model = build(recipe)
    draws = draws_of(recipe)
    batch = collate_encoded([CachedViews(draws, model, count=COUNT, workers=0)[0]])
    image, label, _ = next(draws[draw] for draw in range(COUNT) if draws[draw].name == batch.names[0])
    assert [tuple(level.shape[-2:]) for level in batch.maps] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    assert torch.equal(batch.labels, model.pad_labels(label[None]))
    assert batch.labels.shape == (1, 32, 64)
    assert (batch.labels[0, 30:] == IGNORE).all()
    assert (batch.labels[0, :, 40:] == IGNORE).all()
    with torch.no_grad():
        from_pictures, from_kept = model(image[None]).main, model.decode(Features(batch.maps)).main
    assert len(from_kept.auxiliary) == 2
    np.testing.assert_allclose(from_kept.class_logits, from_pictures.class_logits, atol=2e-2)
    np.testing.assert_allclose(from_kept.mask_logits, from_pictures.mask_logits, atol=2e-2)


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_nothing_of_the_encoder_moves(recipe: Recipe, backbone: str, views: int | None, tmp_path: Path) -> None:
    recipe = over(recipe, backbone)
    recipe = replace(recipe, train=replace(recipe.train, cached_views=views, ema=0.5))
    torch.manual_seed(recipe.train.seed)
    start = build(recipe).state_dict()
    run.train(recipe, RunOptions(out=tmp_path / "run", workers=0, accelerator="cpu", skip_check=True))
    end = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    for weights in (end["state_dict"], end["current_model_state"]):
        moved = {key for key, value in start.items() if not torch.equal(value, weights[f"model.{key}"])}
        assert moved
        assert all(key.startswith("decoder.") for key in moved)
    trained = [group["params"] for group in end["optimizer_states"][0]["param_groups"]]
    assert sum(map(len, trained)) == len(list(build(recipe).decoder.parameters()))


def interrupted(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train two steps, evaluate, and break off in the third."""

    class Stop(Exception):
        pass

    step = SegmentationModule.training_step

    def failing(self: SegmentationModule, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2:
            raise Stop
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", failing)
        with pytest.raises(Stop):
            run.train(recipe, RunOptions(out=out, workers=0, skip_check=True))


def test_a_resumed_run_is_the_straight_run(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(recipe, train=replace(recipe.train, eval_every=2))
    run.train(recipe, RunOptions(out=tmp_path / "straight", workers=0, skip_check=True))
    interrupted(recipe, tmp_path / "parts", monkeypatch)
    run.train(recipe, RunOptions(out=tmp_path / "parts", workers=0, skip_check=True, resume="latest"))
    one, two = (torch.load(tmp_path / n / "last.ckpt", weights_only=True)["state_dict"] for n in ("straight", "parts"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=0, msg=key)


def test_a_resumed_run_encodes_with_the_encoder_of_its_checkpoint(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, train=replace(recipe.train, eval_every=2))
    interrupted(recipe, tmp_path, monkeypatch)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    norm = "model.encoder.backbone.norm"
    saved["state_dict"][f"{norm}.weight"].zero_()
    saved["state_dict"][f"{norm}.bias"].fill_(7.0)
    torch.save(saved, tmp_path / "last.ckpt")
    seen: list[torch.Tensor] = []
    step = SegmentationModule.training_step

    def watching(self: SegmentationModule, batch: EncodedBatch, batch_idx: int) -> torch.Tensor:
        seen.append(batch.maps[0])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", watching)
    run.train(recipe, RunOptions(out=tmp_path, workers=0, skip_check=True, resume="latest"))
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.full_like(seen[0], 7.0))


def test_a_short_run_encodes_no_more_than_it_needs(recipe: Recipe) -> None:
    recipe = replace(recipe, train=replace(recipe.train, steps=1, batch_size=2, cached_views=50))
    draws = training_set(recipe.data, seed=0, mean=recipe.model.mean)
    data = SegmentationData(draws, validation_set(recipe.data), recipe, workers=0)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(model=build(recipe)), global_rank=0, world_size=1)
    assert len(data.train_dataloader().dataset) == 2


def test_what_does_not_fit_is_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(recipe)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(ValueError, match=facts(5, "0.0 GiB", "--train.cached-views", "TMPDIR")):
            CachedViews(draws_of(recipe), model, count=COUNT, workers=0)
    torch.nn.init.constant_(model.encoder.backbone.norm.weight, 1e6)
    with pytest.raises(ValueError, match=facts("--train.cached-views None")):
        CachedViews(draws_of(recipe), model, count=COUNT, workers=0)


def test_the_folder_goes_with_the_views(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    views = CachedViews(draws_of(recipe), build(recipe), count=COUNT, workers=0)
    assert len(list(tmp_path.glob("semask-features-*/*.npy"))) == 2
    del views
    gc.collect()
    assert not list(tmp_path.glob("semask-features-*"))


def test_random_features_are_told(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = replace(recipe, train=replace(recipe.train, steps=1))
    run.train(one, RunOptions(out=tmp_path, workers=0, skip_check=True))
    assert any(record.levelname == "WARNING" and record.name.startswith("semask") for record in caplog.records)


def test_impossible_wishes(recipe: Recipe, tiny_recipe: Callable[..., Recipe]) -> None:
    def wish(**train: object) -> Recipe:
        return replace(recipe, train=replace(recipe.train, **train))

    with pytest.raises(ValueError, match=facts("train.cached_views", 1, "None", 0)):
        check_frozen(wish(cached_views=0), 1)
    with pytest.raises(ValueError, match=facts("--train.freeze-encoder true")):
        check_frozen(wish(freeze_encoder=False), 1)
    with pytest.raises(ValueError, match=facts("--train.cached-views None", "--devices 1")):
        check_frozen(recipe, 2)
    with pytest.raises(ValueError, match=facts("--train.cached-views None", "--devices 1")):
        check_frozen(replace(recipe, data=replace(recipe.data, kind="scenes")), 1)
    check_frozen(recipe, 1)
    check_frozen(wish(cached_views=None), 8)
    semantic = tiny_recipe(TrainRecipe(freeze_encoder=True))
    with pytest.raises(ValueError, match=facts("--train.freeze-encoder false", "semantic_layers", "--semantic none")):
        check_frozen(semantic, 1)
    name = recipe.model.encoder.name
    for encoder in (encoder_options("resnet18", semantic=StageProbe()), encoder_options(name, pyramid=True)):
        with pytest.raises(ValueError, match=facts("--train.freeze-encoder false")):
            check_frozen(replace(recipe, model=replace(recipe.model, encoder=encoder)), 1)
