from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import semask
from semask.data.dataset import validation_set
from semask.evaluation.metrics import Confusion
from semask.models.build import build
from semask.recipes import Recipe, TrainRecipe
from semask.recipes.folder import PLACEHOLDER_CLASSES
from semask.recipes.kinds import with_decoder
from semask.structures import IGNORE, Sample
from semask.training import run
from semask.training.drawing import draw
from semask.training.history import read_history
from semask.training.options import RunOptions
from semask.training.prepare import locked
from tests.facts import facts


def test_a_run_leaves_what_it_says(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=5, batch_size=2, eval_every=2, ema=0.9))
    result = run.train(recipe, RunOptions(out=tmp_path, workers=1))
    history = read_history(tmp_path)
    assert [step for step, _ in history["val/mIoU"]] == [1, 3, 4]  # 0-based; the end is evaluated though 5 is odd
    assert result.scores.miou == pytest.approx(max(value for _, value in history["val/mIoU"]))
    assert [step for step, _ in history["train/loss"]] == list(range(5))
    for name in ("train/main", "train/prior", "train/lr", "lambda/stage1", "lambda/stage4", "val/aAcc", "val/mAcc"):
        assert name in history
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "best", "last", "last.ckpt", "logs", "recipe.json"}
    assert list(tmp_path.glob("logs/session_0/events.out.tfevents.*"))
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["train"]["steps"] == 5

    draw(result)
    for name in ("curves.png", "overview.png"):
        assert np.array(Image.open(tmp_path / name).convert("L")).std() > 5

    # the weights on disk are those that were evaluated: the moving average
    model = semask.load(str(result.last))
    counted = Confusion(recipe.model.num_classes)
    for sample in validation_set(recipe.data):
        counted.update(model.labels(sample.image[None])[0], sample.label)
    assert torch.equal(counted.matrix, result.confusion.matrix)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    weight = "decoder.classify.weight"
    assert torch.equal(model.state_dict()[weight], saved["state_dict"][f"model.{weight}"])
    assert not torch.equal(model.state_dict()[weight], saved["current_model_state"][f"model.{weight}"])


def test_evaluations_do_not_change_what_is_learned(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    weights = []
    for every in (1, 3):
        train = TrainRecipe(steps=3, batch_size=2, eval_every=every)
        run.train(tiny_recipe(train, drop_path=0.2), RunOptions(out=tmp_path / str(every), workers=0))
        weights.append(torch.load(tmp_path / str(every) / "last.ckpt", weights_only=True)["state_dict"])
    often, once = weights
    assert all(torch.equal(often[key], value) for key, value in once.items())


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").write_text("mine")
    run.train(tiny_recipe(TrainRecipe(steps=1, batch_size=2)), RunOptions(out=tmp_path, workers=0))
    assert (tmp_path / "logs" / "server.log").read_text() == "mine"


def test_a_run_shorter_than_its_warm_up_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_recipe: Callable[..., Recipe]
) -> None:
    for steps, told in ((2, True), (3, False)):
        caplog.clear()
        run.train(tiny_recipe(TrainRecipe(steps=steps, batch_size=2)), RunOptions(out=tmp_path / str(steps), workers=0))
        assert ("--optim.warmup-steps" in caplog.text) is told


def test_overwriting_starts_afresh(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    options = RunOptions(out=tmp_path, workers=0)
    run.train(tiny_recipe(TrainRecipe(steps=3, batch_size=2, eval_every=3)), options)
    (tmp_path / "notes.txt").write_text("mine")
    run.train(tiny_recipe(TrainRecipe(steps=2, batch_size=2, eval_every=3)), replace(options, overwrite=True))
    assert [step for step, _ in read_history(tmp_path)["train/loss"]] == [0, 1]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def per_picture(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        mixes = isinstance(child, nn.BatchNorm2d) or name.startswith("drop_path")
        setattr(model, name, nn.Identity() if mixes else per_picture(child))
    return model


def test_accumulated_passes_equal_one_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    """BatchNorm sees each pass by itself, and dropout and drop-path draw per pass: without them, accumulation changes nothing.

    In float64, since AdamW turns rounding in a vanishing gradient into whole steps.
    """
    monkeypatch.setattr(run, "build", lambda recipe: per_picture(build(recipe)))
    trainer = run.Trainer
    monkeypatch.setattr(run, "Trainer", lambda **given: trainer(**{**given, "precision": "64-true"}))
    states = []
    for accumulate in (1, 2):
        train = TrainRecipe(steps=3, batch_size=4, accumulate=accumulate, eval_every=3)
        out = tmp_path / str(accumulate)
        run.train(tiny_recipe(train, dropout=0.0), RunOptions(out=out, workers=0, logger="csv"))
        states.append(torch.load(out / "last.ckpt", weights_only=True)["state_dict"])
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def test_the_class_table_must_fit(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2))
    wrong = replace(recipe, model=replace(recipe.model, num_classes=5))
    with pytest.raises(ValueError, match=facts(wrong.name, 5, "--model.num-classes 12", "--data.classes")):
        run.train(wrong, RunOptions(out=tmp_path))
    for said in (PLACEHOLDER_CLASSES, 12):
        follows = replace(recipe, model=replace(recipe.model, num_classes=said))
        followed, classes = run.fit_classes(replace(follows, data=replace(recipe.data, classes_from_data=True)))
        assert followed.model.num_classes == len(classes.names) == 12
    with pytest.raises(ValueError, match=facts(12, "--model.num-classes", 5, "--data.classes")):
        run.fit_classes(replace(wrong, data=replace(wrong.data, classes_from_data=True)))


@pytest.mark.parametrize(
    ("number", "status", "workers"),
    [(signal.SIGINT, 130, "1"), pytest.param(signal.SIGTERM, 143, "0", marks=pytest.mark.slow)],
)
def test_a_run_ended_from_outside_says_so_and_can_go_on(
    tmp_path: Path, number: signal.Signals, status: int, workers: str
) -> None:
    """By the exit status that shells and schedulers know, not by Lightning's 1 and 0; no step is lost."""
    out = tmp_path / "run"
    # the first line comes after a twentieth of the steps; none of those that are left must be the last
    flags = ["--train.steps", "2000", "--train.eval-every", "2000", "--workers", workers, "--out", str(out)]
    flags += ["--train.batch-size", "2", "--data.crop", "32", "32", "--data.scene-size", "32", "32"]
    flags += ["--model.encoder.embed-dim", "16", "--model.encoder.depths", "1", "1", "1", "1"]
    command = [sys.executable, "-m", "semask.cli.main", "train", "scenes/micro-fpn", *flags]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, children ignore it too
    try:
        ended = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with ended:
        assert ended.stdout is not None
        assert any(line.startswith("step") for line in ended.stdout)
        if number == signal.SIGINT:
            os.killpg(ended.pid, number)  # as a terminal does, which sends it to loading processes too
        else:
            ended.send_signal(number)
        ended.communicate(timeout=120)
    assert ended.returncode == status
    saved = torch.load(out / "last.ckpt", weights_only=True)
    steps = [step for step, _ in read_history(out)["train/loss"]]
    assert saved["global_step"] >= 100
    assert steps[-1] <= saved["global_step"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2))
    with locked(tmp_path / "run"), pytest.raises(ValueError, match=facts(str(tmp_path / "run"), "--out")):
        run.train(recipe, RunOptions(out=tmp_path / "run", workers=0))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".1-a.tmp").write_text("of a killed run")
    run.train(recipe, RunOptions(out=tmp_path / "run", workers=0))  # the first one has ended
    assert not (tmp_path / "run" / ".1-a.tmp").exists()


def test_checkpoints_do_not_pass_through_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2))
    run.train(recipe, RunOptions(out=tmp_path / "run", workers=0))
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_a_batch_norm_of_one_value_is_refused_before_training(tmp_path: Path) -> None:
    recipe = with_decoder(semask.get_recipe("scenes/micro-fpn"), "upernet")
    recipe = replace(recipe, train=replace(recipe.train, steps=1, batch_size=2, accumulate=2))
    with pytest.raises(ValueError, match=facts("--train.batch-size", "--train.accumulate", "--data.crop")):
        run.train(recipe, RunOptions(out=tmp_path / "run", workers=0))
    assert not (tmp_path / "run").exists()


def test_a_validation_split_without_labels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    def unlabelled(recipe: object) -> list[Sample]:
        return [sample._replace(label=torch.full_like(sample.label, IGNORE)) for sample in validation_set(recipe)]

    monkeypatch.setattr(run, "validation_set", unlabelled)
    with pytest.raises(ValueError, match=facts("--data.val-split")):
        run.train(tiny_recipe(TrainRecipe(steps=1, batch_size=2)), RunOptions(out=tmp_path, workers=0))


@pytest.mark.parametrize("changes", [{"optim.min_lr": 1.0}, {"train.freeze_encoder": True}])
def test_a_refused_run_leaves_the_one_that_it_would_replace(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], changes: dict[str, object]
) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2))
    run.train(recipe, RunOptions(out=tmp_path, workers=0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=facts("optim.min_lr") if "optim.min_lr" in changes else "frozen"):
        run.train(recipe.override(changes), RunOptions(out=tmp_path, workers=0, overwrite=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_fit_refuses_what_train_refuses(tmp_path: Path) -> None:
    data = [semask.Sample(torch.rand(3, 32, 32), torch.randint(0, 4, (32, 32))) for _ in range(4)]
    model = semask.create_model("resnet18", "pspnet", num_classes=4)
    with pytest.raises(ValueError, match=facts("--train.batch-size")):
        semask.fit(model, data, data, steps=2, batch_size=1, out=tmp_path / "a")
    plain = semask.build("scenes/micro-seg", num_classes=4)
    with pytest.raises(ValueError, match=facts("--train.cached-views")):
        semask.fit(plain, data, data, steps=2, batch_size=2, out=tmp_path / "b", freeze_encoder=True, cached_views=2)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
