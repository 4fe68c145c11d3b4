"""Mask classifiers through every command, and what keeps their semantic layers alive."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.cli import main as cli
from semask.data.scenes.scene import draw_scene
from semask.losses.build import build_loss
from semask.models.build import build
from semask.recipes import Recipe, TrainRecipe
from semask.structures import MaskLogits
from semask.training import run
from semask.training.history import read_history
from semask.training.options import RunOptions
from tests.facts import facts, missing

STAGES = [f"lambda/stage{stage}" for stage in (1, 2, 3, 4)]


def test_trained_evaluated_and_used(tmp_path: Path, tiny_masks: Callable[..., Recipe]) -> None:
    recipe = tiny_masks(TrainRecipe(steps=2, batch_size=2, eval_every=2))
    result = run.train(recipe, RunOptions(out=tmp_path / "run", workers=0))
    history = read_history(tmp_path / "run")
    for name in ("train/loss", "train/main", "train/prior", *STAGES):
        assert all(np.isfinite(value) for _, value in history[name])
    total, main, prior = (history[f"train/{name}"][0][1] for name in ("loss", "main", "prior"))
    assert total == pytest.approx(main + prior)

    assert cli.main(["evaluate", str(result.last), "--workers", "0", "--device", "cpu"]) == 0
    scores = json.loads((result.last / "metrics.json").read_text())["scores"]
    assert scores["miou"] == pytest.approx(history["val/mIoU"][-1][1], rel=1e-6)

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, size in {"odd": (37, 51), "one": (1, 1), "strip": (3, 70)}.items():
        Image.fromarray(draw_scene(0, (80, 80))[0][: size[0], : size[1]]).save(pictures / f"{name}.png")
    out = tmp_path / "out"
    protocols = {
        "whole": [],
        "windows": ["--test.mode", "sliding", "--test.window", "32", "32", "--test.stride", "20", "20"],
        "tta": ["--test.scales", "0.5", "1.0", "--test.flip", "true"],
    }
    for name, flags in protocols.items():
        told = ["predict", str(result.last), str(pictures), "--out", str(out / name), "--prior", "--device", "cpu"]
        assert cli.main([*told, *flags]) == 0
    model = semask.load(str(result.last))
    image = torch.from_numpy(np.array(Image.open(pictures / "odd.png"))).permute(2, 0, 1)[None] / 255
    for name in protocols:
        assert {path.name for path in (out / name / "priors").iterdir()} == {"odd.png", "one.png", "strip.png"}
    assert np.array_equal(np.array(Image.open(out / "whole" / "predictions" / "odd.png")), model.labels(image)[0])


def test_windows_smaller_than_the_padding_are_refused(
    tmp_path: Path, tiny_masks: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run.train(tiny_masks(TrainRecipe(steps=1, batch_size=1)), RunOptions(out=tmp_path / "run", workers=0))
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    flags = ["--test.mode", "sliding", "--test.window", "16", "16", "--test.stride", "16", "16", "--device", "cpu"]
    assert cli.main(["predict", str(result.last), str(tmp_path / "a.png"), "--out", str(tmp_path / "o"), *flags]) == 2
    assert missing(capsys.readouterr().err, "(16, 16)", "32×32") == []


def test_a_dead_start_stays_dead_and_is_told(tmp_path: Path, tiny_masks: Callable[..., Recipe]) -> None:
    recipe = tiny_masks(TrainRecipe(steps=4, batch_size=2, eval_every=4), dead=True)
    with pytest.warns(
        UserWarning,
        match=facts(
            "lambda/stage1, lambda/stage2, lambda/stage3, lambda/stage4", "--model.encoder.semantic.dead-init false"
        ),
    ):
        run.train(recipe, RunOptions(out=tmp_path, workers=0))
    history = read_history(tmp_path)
    assert all({value for _, value in history[name]} == {0.0} for name in STAGES)


def test_a_live_start_moves_and_is_quiet(tmp_path: Path, tiny_masks: Callable[..., Recipe]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.train(tiny_masks(TrainRecipe(steps=4, batch_size=2, eval_every=4)), RunOptions(out=tmp_path, workers=0))
    history = read_history(tmp_path)
    for name in STAGES:
        (_, first), *others = history[name]
        assert first == 0.0
        assert others[-1][1] != 0.0


@pytest.mark.parametrize("dead", [True, False])
def test_what_a_dead_start_leaves_without_gradient(tiny_masks: Callable[..., Recipe], dead: bool) -> None:
    """With λ and the projection at zero, each one's gradient holds the other as a factor; the query alone is supervised."""
    torch.manual_seed(0)
    recipe = tiny_masks(TrainRecipe(steps=1, batch_size=1), dropout=0.0, dead=dead)
    model, loss = build(recipe).train(), build_loss(recipe)
    images, labels = torch.rand(2, 3, 32, 32), torch.randint(0, 12, (2, 32, 32))
    out = model(images)
    assert isinstance(out.main, MaskLogits)
    loss(out, labels).total.backward()
    for layer in model.encoder.semantic:
        (unit,) = layer.units
        still = {name: not parameter.grad.any() for name, parameter in unit.named_parameters()}
        projections = {f"{part}.{kind}" for part in ("key", "value", "project") for kind in ("weight", "bias")}
        assert {name for name, zero in still.items() if zero} == (projections | {"gain"} if dead else projections)
