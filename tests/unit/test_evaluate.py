"""The evaluate command on drawn scenes, with a checkpoint of random weights."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.record import write_record
from semask.cli import main as cli
from semask.cli.evaluate import EvaluateOptions, evaluate, summary, table
from semask.cli.scoring import check_classes
from semask.data.checks.check import digest_split
from semask.data.dataset import classes_of, validation_set
from semask.evaluation.metrics import Confusion
from semask.inference import tta
from semask.models.build import build
from semask.recipes import DataRecipe, Recipe
from tests.facts import facts, missing

SCENES = recipes.get_recipe("scenes/semask-micro-fpn")
SMALL = ("--data.scene-count", "5", "--data.scene-size", "40", "56", "--workers", "0", "--device", "cpu")


def small(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, scene_count=5, scene_size=(40, 56)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    recipe = recipes.get_recipe("scenes/semask-micro-fpn")
    model = build(recipe)
    torch.nn.init.normal_(model.decoder.classify.weight, std=3.0)  # so that predictions vary
    return store.save(model, tmp_path_factory.mktemp("checkpoint"), classes=classes_of(recipe.data))


def counted(checkpoint: Path, *, several_scales: bool = False) -> Confusion:
    """One scene after the other, without the command."""
    model, recipe, _ = store.load(checkpoint)
    predict = tta(model, ratios=(0.5, 1.0), flip=True) if several_scales else model.scores
    confusion = Confusion(12)
    samples = validation_set(small(recipe).data)
    with torch.inference_mode():
        for index in range(len(samples)):
            image, label, _ = samples[index]
            confusion.update(predict(image[None])[0].argmax(0), label)
    return confusion


def test_scores_and_their_record(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(checkpoint), *SMALL]) == 0
    told = capsys.readouterr().out
    expected = counted(checkpoint).scores()
    record = json.loads((checkpoint / "metrics.json").read_text())
    for name, value in expected.to_dict(
        names := classes_of(recipes.get_recipe("scenes/semask-micro-fpn").data).names
    ).items():
        if name != "classes":
            assert record["scores"][name] == value
    for row, measured in zip(expected.to_dict(names)["classes"], record["scores"]["classes"], strict=True):  # type: ignore[call-overload]
        assert measured.items() >= row.items()
        assert measured.keys() - row.keys() == {"boundary_iou", "boundary_f"}
    assert record["recipe"] == "scenes/semask-micro-fpn"
    assert record["images"] == 5
    assert record["scores"]["pixels"] == 5 * 40 * 56
    assert record["checkpoint"]["sha256"] == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert record["protocol"]["data"]["scene_count"] == 5
    assert record["protocol"]["test"]["mode"] == "whole"
    assert record["protocol"]["name"] == "semask-ss"
    assert record["data"]["sha256"] == digest_split(small(recipes.get_recipe("scenes/semask-micro-fpn")).data, "val")
    matrix = counted(checkpoint).matrix
    absent = [name for name, row, column in zip(names, matrix, matrix.T, strict=True) if row.any() and not column.any()]
    assert record["never_predicted"] == absent != []
    assert missing(record["advice"], *absent[:8]) == []
    assert sum(part["pixels"] for part in record["sizes"]["bins"]) == 5 * 40 * 56
    assert sum(part["pixels"] for part in record["calibration"]["bins"]) == 5 * 40 * 56
    low, high = record["intervals"]["miou"]
    assert low < expected.miou < high
    page = (checkpoint / "metrics.html").read_text()
    assert all(f"scene {2 * index}" in page for index in range(5))
    assert record["advice"] in page
    assert record["versions"]["torch"] == torch.__version__
    assert f"mIoU {100 * expected.miou:.2f} [" in told
    assert str(checkpoint / "metrics.png") in told
    with Image.open(checkpoint / "metrics.png") as bars:
        assert np.array(bars.convert("L")).std() > 5, "not blank"
    assert all(f" {name} " in told for name in ("sky", "water", "pole"))


def test_protocol_flags_reach_the_predictor(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "scores.json"
    flags = ["--test.scales", "0.5", "1.0", "--test.flip", "true", "--out", str(out)]
    assert cli.main(["evaluate", str(checkpoint), *SMALL, *flags]) == 0
    record = json.loads(out.read_text())
    assert record["scores"]["miou"] == pytest.approx(counted(checkpoint, several_scales=True).scores().miou, rel=1e-6)
    assert record["scores"]["miou"] != counted(checkpoint).scores().miou
    assert record["protocol"]["test"]["scales"] == [0.5, 1.0]


@pytest.mark.slow
def test_two_processes_score_as_one(checkpoint: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # Image by image: a convolution of three is not to the last bit those of two and one, and shares are of such sizes.
    flags = [str(checkpoint), *SMALL, "--test.batch-size", "1"]
    command = [*launcher, "-m", "semask.cli.main", "evaluate", *flags, "--out", str(tmp_path / "a.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    names = [row["name"] for row in record["scores"]["classes"]]
    alone = tmp_path / "b.json"
    assert cli.main(["evaluate", *flags, "--out", str(alone)]) == 0
    other = json.loads(alone.read_text())
    assert record["hardware"]["processes"] == 2
    for key in ("scores", "sizes", "calibration", "intervals", "images", "data"):
        assert record[key] == other[key], key
    assert names == [row["name"] for row in other["scores"]["classes"]]
    with np.load(tmp_path / "a.npz") as shared, np.load(tmp_path / "b.npz") as single:
        assert all(np.array_equal(shared[key], single[key]) for key in single.files)
    assert result.stdout.count("mIoU") == 1, "only the first process speaks"


def test_classes_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bundle = store.load(checkpoint)
    recipe = small(bundle.recipe).override({"model.num_classes": 3})
    with pytest.raises(ValueError, match=facts(3, 12, "--data.classes")):
        evaluate(checkpoint, bundle._replace(recipe=recipe), EvaluateOptions(out=tmp_path / "a.json"))
    assert bundle.classes is not None
    first, second, *others = bundle.classes.names
    swapped = dataclasses.replace(bundle.classes, names=(second, first, *others))
    with pytest.raises(ValueError, match=facts(0, repr(first), repr(second), "--data.classes")):
        evaluate(checkpoint, bundle._replace(classes=swapped), EvaluateOptions(out=tmp_path / "a.json"))
    assert not (tmp_path / "a.json").exists()


def test_renamed_classes_are_noted_and_scored(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers decide which class is which; case and outer spaces are no new name."""
    bundle = store.load(checkpoint)
    assert bundle.classes is not None
    first, second, *others = bundle.classes.names
    check_classes(bundle._replace(classes=dataclasses.replace(bundle.classes, names=("Sky ", second, *others))),
                  bundle.classes)  # fmt: skip
    assert caplog.messages == []
    check_classes(bundle, dataclasses.replace(bundle.classes, names=(first, "sea", *others)))
    (note,) = caplog.messages
    assert missing(note, 1, repr(second), "'sea'") == []


def test_too_few_images_for_an_interval_are_noted() -> None:
    scores = {"miou": 0.5, "macc": 0.5, "aacc": 0.5}

    def told(images: int, ends: list[float] | None) -> str:
        return summary({"scores": scores, "images": images, "intervals": {"miou": ends}})

    assert missing(told(1, None), "50.00", 1, 2, 5) == []
    assert missing(told(4, [0.4, 0.6]), "40.00", "60.00", 4, 5) == []
    assert "\n" not in told(5, [0.4, 0.6])
    assert "\n" not in summary({"scores": scores, "images": 1}), "without resamples no interval is expected"


def test_another_scale_than_in_training_is_told(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = [*SMALL, "--out", str(tmp_path / "scores.json")]
    assert cli.main(["evaluate", str(checkpoint), *flags, "--test.scales", "0.5", "1.0"]) == 0
    # the random model leaves classes out, which is reported besides
    assert all("--train.steps" in message for message in caplog.messages)
    caplog.clear()
    assert cli.main(["evaluate", str(checkpoint), *flags, "--data.base-ratio", "0.5"]) == 0
    scale, *others = caplog.messages
    assert missing(scale, 0.5) == []
    assert all("--train.steps" in message for message in others)


def test_the_checkpoint_comes_first(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--device", "cpu", str(checkpoint)]) == 2
    assert missing(capsys.readouterr().err, "semask evaluate CHECKPOINT", "'--device'") == []
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert (
        missing(capsys.readouterr().err, repr(str(tmp_path)), "recipe.json", "model.safetensors", "semask train") == []
    )
    (tmp_path / "model.safetensors").write_text("flags are read before weights")
    shutil.copy(checkpoint / "recipe.json", tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(tmp_path), "--data.scene-cout", "5"])
    assert "--data.scene-count" in capsys.readouterr().err


def test_help_has_the_values_of_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.get_recipe("scenes/micro-fpn").override({"test.window": (96, 72), "data.root": "photos"})
    write_record(tmp_path, recipe)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SystemExit) as leaving:
        cli.main(["evaluate", str(tmp_path), "--help"])
    assert leaving.value.code == 0
    assert missing(capsys.readouterr().out, "96 72", "photos") == []


def test_another_split_is_scored_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scenes = tmp_path / "data", validation_set(SCENES.data)
    for index in range(6):
        image, label, _ = scenes[index]
        for kind, pixels in (("images", (image * 255).byte().permute(1, 2, 0)), ("labels", label)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(root / kind / f"{index}.png")
    (root / "classes.json").write_text(json.dumps(classes_of(SCENES.data).to_dict()))
    data = DataRecipe(kind="files", root=str(root))
    recipe = dataclasses.replace(SCENES, data=data)
    store.save(build(recipe), tmp_path / "best")
    base = ["evaluate", str(tmp_path / "best"), "--workers", "0", "--device", "cpu", "--resamples", "0"]

    def names(*flags: str) -> list[str]:
        assert cli.main([*base, *flags]) == 0
        record = json.loads((tmp_path / "best/metrics.json").read_text())
        with np.load(tmp_path / "best/metrics.npz") as arrays:
            assert record["data"]["images"] == len(arrays["image_names"])
            assert record["data"]["sha256"] == digest_split(data, record["data"]["split"])
            return [record["data"]["split"], *arrays["image_names"].tolist()]

    # no list: the recipe's two splits alone are known
    assert cli.main([*base, "--split", "test"]) == 2
    assert missing(capsys.readouterr().err, str(root / "test.txt")) == []
    assert len(names("--split", "train")) == 4
    for split, listed in (("train", "0 1"), ("val", "2"), ("test", "3 4 5")):
        (root / f"{split}.txt").write_text("\n".join(listed.split()))
    assert names("--split", "test") == ["test", "3", "4", "5"]
    assert names() == ["val", "2"]
    # robustness takes the same flag
    flags = ["--corruptions", "fog", "--strengths", "1", "--workers", "0", "--device", "cpu", "--split", "test"]
    assert cli.main(["robustness", str(tmp_path / "best"), *flags]) == 0
    found = json.loads((tmp_path / "best/robustness.json").read_text())
    assert found["data"] == {"split": "test", "images": 3, "sha256": digest_split(data, "test")}


def test_scenes_have_one_split_to_score(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=facts("--split", "'test'")):
        evaluate(checkpoint, store.load(checkpoint), EvaluateOptions(split="test", workers=0, device="cpu"))


def test_undefined_scores_are_shown_as_a_dash() -> None:
    confusion = Confusion(3)
    confusion.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    scores = confusion.scores()
    assert table(scores, ("sky", "road", "car")).rows == [
        ["sky", "50.00", "100.00", "33.33"],
        ["road", "50.00", "50.00", "66.67"],
        ["car", "–", "–", "0.00"],
    ]
    record = {"scores": scores.to_dict(["sky", "road", "car"]), "images": 7}
    assert summary(record) == "mIoU 50.00  mAcc 75.00  aAcc 66.67  over 7 images"
    record |= {"intervals": {"miou": [0.41, 0.6]}, "calibration": {"ece": None}}
    assert summary(record) == "mIoU 50.00 [41.00, 60.00]  mAcc 75.00  aAcc 66.67  ECE –  over 7 images"


def test_a_named_protocol_and_flags_beyond_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--protocol",
        "segmenter-ms",
        "--data.crop",
        "40",
        "40",
        "--test.scales",
        "1.0",
        "--out",
        str(tmp_path / "a.json"),
    ]
    less = ["--boundary", "false", "--areas", "--bins", "0", "--resamples", "0", "--gallery", "0"]
    assert cli.main(["evaluate", str(checkpoint), *SMALL, *flags, *less]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["protocol"]["test"]["mode"] == "sliding"
    assert record["protocol"]["test"]["window"] == [128, 128], "the crop of the checkpoint's recipe"
    assert record["protocol"]["test"]["stride"] == [96, 96]
    assert record["protocol"]["seen"]["flip"] is True
    assert record["protocol"]["name"] is None
    assert record.keys().isdisjoint({"sizes", "calibration", "intervals"})
    assert "boundary_iou" not in record["scores"]
    assert cli.main(["evaluate", str(checkpoint), *SMALL, "--protocol", "segmentr-ss"]) == 2
    assert missing(capsys.readouterr().err, "'segmentr-ss'", "'segmenter-ss'", "semask-ms") == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--areas", "9", "4"], ((9, 4), 1)),
        (["--bins", "-1"], (1, -1)),
        (["--resamples", "-1"], ("--resamples", 0, -1)),
        (["--gallery", "-2"], ("--gallery", 0, -2)),
        (["--workers", "-2"], ("--workers", 0, -2)),
        (["--seed", "-1"], ("--seed", 0, -1)),
        (["--out", "scores.npz"], ("--out", ".json", "'scores.npz'")),
    ],
)
def test_impossible_measures_are_refused_before_anything_is_scored(
    checkpoint: Path, tmp_path: Path, flags: list[str], told: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert cli.main(["evaluate", str(checkpoint), *SMALL, "--out", str(out), *flags]) == 2
    assert missing(" ".join(capsys.readouterr().err.split()), *told) == []
    assert not out.exists()


def test_records_are_written_before_anything_is_printed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = str(tmp_path / "evaluate.json")
    assert cli.main(["evaluate", str(checkpoint), *SMALL, "--out", evaluation]) == 0
    commands = {
        "evaluate": [str(checkpoint), *SMALL],
        "robustness": [str(checkpoint), *SMALL, "--corruptions", "contrast", "--strengths", "1", "--images", "1"],
        "compare": [evaluation, evaluation],
        "bench": ["scenes/micro-fpn", "--size", "32", "--rounds", "1", "--warmup", "0"],
    }

    class Closed:
        def __getattr__(self, name: str) -> object:
            raise BrokenPipeError

    for command, flags in commands.items():
        module, out = importlib.import_module(f"semask.cli.{command}"), tmp_path / "second" / f"{command}.json"
        real = module.console
        monkeypatch.setattr(
            module, "console", lambda real=real, **named: real(**named) if "stderr" in named else Closed()
        )
        monkeypatch.setattr(os, "dup2", lambda *_: None)
        assert cli.main([command, *flags, "--out", str(out)]) == 141
        assert json.loads(out.read_text())
