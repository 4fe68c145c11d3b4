"""Robustness: which samples are looked at, means by hand, the command on a tiny checkpoint, and its messages."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semask.checkpoints import store
from semask.cli.main import main
from semask.cli.robustness import RobustnessOptions, markdown, named, robustness
from semask.data.corruptions import CORRUPTIONS, corrupt
from semask.data.dataset import validation_set
from semask.data.scenes.scene import SCENE_CLASSES
from semask.evaluation import evaluate_model
from semask.evaluation.robustness import CorruptedSamples, Robustness, measure_robustness, spread_out
from semask.inference import build_predictor
from semask.models.build import build
from semask.recipes import DataRecipe, Recipe, get_recipe
from tests.facts import facts, missing

SCENES = DataRecipe(kind="scenes", scene_size=(32, 40), crop=(32, 40), scene_count=4)
FOUND = Robustness(
    0.8, (1, 5), {"shot_noise": (0.6, 0.2), "impulse_noise": (0.4, 0.4), "fog": (0.7, 0.5), "contrast": (0.8, 0.0)}
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return replace(get_recipe("scenes/semask-micro-fpn"), data=SCENES)


@pytest.fixture(scope="module")
def checkpoint(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    store.save(build(recipe), folder, classes=SCENE_CLASSES)
    return folder


def test_samples_are_corrupted_alike_at_every_look() -> None:
    samples = validation_set(SCENES)
    noisy = CorruptedSamples(samples, [3, 1], name="shot_noise", strength=4, seed=7)
    assert len(noisy) == 2
    expected, _ = corrupt(samples[3].image, samples[3].label, name="shot_noise", strength=4, key="7 scene 6")
    assert torch.equal(noisy[0].image, expected)
    assert torch.equal(noisy[0].image, noisy[0].image)
    assert noisy[1].name == "scene 2"
    assert not torch.equal(CorruptedSamples(samples, [3], name="shot_noise", strength=4)[0].image, expected)
    clean = CorruptedSamples(samples, [2], name=None)[0]
    assert torch.equal(clean.image, samples[2].image)


@pytest.mark.parametrize(
    ("total", "images", "chosen"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (101, 3, [0, 50, 100]), (10, 1, [0]), (7, 4, [0, 2, 4, 6])],
)
def test_images_are_spread_out(total: int, images: int | None, chosen: list[int]) -> None:
    assert list(spread_out(total, images)) == chosen


def test_means_are_those_by_hand() -> None:
    assert FOUND.by_corruption() == pytest.approx(
        {"shot_noise": 0.4, "impulse_noise": 0.4, "fog": 0.6, "contrast": 0.4}
    )
    assert FOUND.by_kind() == pytest.approx({"noise": 0.4, "weather": 0.6, "digital": 0.4})
    assert FOUND.mean() == pytest.approx(0.45)
    assert FOUND.degradation(0.2) == pytest.approx(0.75)
    printed = FOUND.to_dict()
    assert printed["degradation"]["weather"] == pytest.approx(0.25)
    assert json.loads(json.dumps(printed, allow_nan=False))["miou"]["fog"] == [0.7, 0.5]


def test_what_is_undefined_is_null() -> None:
    nothing = Robustness(0.0, (1,), {"fog": (float("nan"),)})
    assert math.isnan(nothing.degradation(0.0))
    printed = nothing.to_dict()
    assert printed["miou"]["fog"] == [None]
    assert printed["means"] == {"fog": None, "weather": None, "mean": None}
    assert json.dumps(printed, allow_nan=False)


def test_the_table_names_every_row() -> None:
    lines = markdown(FOUND).splitlines()
    assert missing(lines[0], "mIoU", "80.00") == []
    assert [missing(cell, strength) for cell, strength in zip(lines[2].split(" | ")[1:3], (1, 5), strict=True)] == [
        [],
        [],
    ]
    assert lines[4].endswith(" | 60.00 | 20.00 | 40.00 | 50.00 |")
    rows = [line.split(" | ")[0] for line in lines[4:]]
    assert len({*rows}) == 8
    assert "fog" in rows[3]
    assert "contrast" in rows[5]


def test_kinds_stand_for_their_members() -> None:
    assert named(None) == CORRUPTIONS
    assert named(("fog", "noise", "shot_noise")) == ("fog", "gaussian_noise", "shot_noise", "impulse_noise")


def test_every_corruption_and_strength_is_evaluated_once() -> None:
    asked: list[tuple[str | None, int]] = []

    def evaluate(samples: CorruptedSamples) -> float:
        asked.append((samples.name, samples.strength))
        assert samples.chosen == (0, 3)
        return 0.5 if samples.name is None else 0.1 * samples.strength

    found = measure_robustness(
        evaluate, validation_set(SCENES), corruptions=("fog", "snow"), strengths=(2, 4), images=2
    )
    assert asked == [(None, 1), ("fog", 2), ("fog", 4), ("snow", 2), ("snow", 4)]
    assert found == Robustness(0.5, (2, 4), {"fog": (0.2, 0.4), "snow": (0.2, 0.4)})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"corruptions": ("mist",)}, ("gaussian_noise, shot_noise", "mist")),
        ({"corruptions": ()}, ("gaussian_noise, shot_noise", "fog")),
        ({"corruptions": ("fog", "fog")}, ("gaussian_noise, shot_noise", "fog")),
        ({"strengths": (0, 1)}, ("1, 2, 3, 4, 5", 0)),
        ({"images": 0}, ("--images", 1, 0)),
    ],
)
def test_bad_options_are_refused_before_anything_is_scored(
    change: dict[str, object], wanted: tuple[object, ...]
) -> None:
    def never(samples: object) -> float:
        raise AssertionError(samples)

    with pytest.raises(ValueError, match=facts(*wanted)):
        measure_robustness(never, validation_set(SCENES), **change)


def test_the_command_writes_what_a_plain_loop_finds(
    checkpoint: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    flags = ["--corruptions", "fog", "contrast", "--strengths", "1", "5", "--images", "2", "--workers", "0"]
    assert main(["robustness", str(checkpoint), *flags, "--device", "cpu", "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    model = store.load(checkpoint).model
    predictor = build_predictor(model, recipe.test, recipe.data)
    samples = validation_set(SCENES)
    for name in ("fog", "contrast"):
        for place, strength in enumerate((1, 5)):
            corrupted = CorruptedSamples(samples, [0, 3], name=name, strength=strength)
            expected = evaluate_model(predictor, corrupted, num_classes=12).scores().miou
            assert record["miou"][name][place] == pytest.approx(expected)
    assert record["data"]["images"] == 2
    assert record["strengths"] == [1, 5]
    assert record["seed"] == 0
    assert len(record["checkpoint"]["sha256"]) == 64
    assert record["protocol"]["data"]["scene_count"] == 4
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("\n") == 9
    printed = capsys.readouterr().out
    assert missing(printed, "fog", "weather", "contrast", "digital") == []
    assert str(out) in printed.replace("\n", "")


def test_images_of_bands_are_refused(checkpoint: Path) -> None:
    bundle = store.load(checkpoint)
    bands = bundle._replace(recipe=replace(bundle.recipe, data=replace(SCENES, channels=4)))
    with pytest.raises(ValueError, match=facts(4, "data.channels")):
        robustness(checkpoint, bands, RobustnessOptions())


def test_the_checkpoint_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", "--images", "2"]) == 2
    assert missing(capsys.readouterr().err, "semask robustness CHECKPOINT", "'--images'") == []
