"""Recipes fitted to data and machine: what each measurement changes, what flags keep, and what a run records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semask.cli.train import main, parse
from semask.data.checks.fingerprint import Fingerprint, fingerprint, thickness
from semask.data.dataset import classes_of
from semask.evaluation.metrics import Confusion
from semask.evaluation.summary import advice, class_line, never_predicted
from semask.inference.from_recipe import read_size, scale_note
from semask.recipes import DataRecipe, get_recipe, list_recipes
from semask.recipes.bounds import check_numbers
from semask.text import Progress
from semask.training.automatic import Machine, fit_recipe
from tests.facts import missing
from tests.unit.doctored import put_good

LITE0 = "folder/semask-lite0-fpn"
CPU, GPU = Machine(gpu=False, memory=16.0), Machine(gpu=True, memory=80.0)
CELLS = Fingerprint(27, 3 * 512**2, 512, 512, 1.0, 512**2, (1_500_000, 5_500_000), (7.0, 30.0))


def fit(found: Fingerprint = CELLS, machine: Machine = CPU, *, recipe: str = LITE0, keep: frozenset[str] = frozenset()):
    return fit_recipe(get_recipe(recipe), found, machine, names=("ground", "thing"), keep=keep)


def test_cells_keep_their_size_and_get_short_training() -> None:
    recipe = fit().recipe
    assert read_size(recipe.data, 512, 512) == (512, 512)
    assert (recipe.data.crop, recipe.train.steps, recipe.train.batch_size) == ((256, 256), 500, 8)
    assert (recipe.train.ema, recipe.optim.warmup_steps) == (None, 25)
    assert (recipe.loss.class_weights, recipe.data.rare_crops) == (None, 0)


def test_a_rare_class_gets_weight_and_crops() -> None:
    recipe = fit(CELLS._replace(pixels=(9800, 200))).recipe
    assert recipe.loss.class_weights == (1.0, 7.0)
    assert recipe.data.rare_crops == 0.5
    # a mask classifier has no weights of pixels
    recipe = fit(CELLS._replace(pixels=(9800, 200)), recipe="folder/semask-lite0-mask2former").recipe
    assert (recipe.loss.class_weights, recipe.data.rare_crops) == (None, 0.5)


def test_thin_classes_are_enlarged_and_large_images_reduced() -> None:
    assert read_size(fit(CELLS._replace(thickness=(60.0, 2.0))).recipe.data, 512, 512) == (1024, 1024)
    large = CELLS._replace(height=3000, width=4000, largest=12_000_000, thickness=(900.0, 200.0))
    height, width = read_size(fit(large).recipe.data, 3000, 4000)
    assert 4 * 256 * 0.95 < (height * width) ** 0.5 < 4 * 256 * 1.05
    # no further than the thinnest class allows
    recipe = fit(large._replace(thickness=(900.0, 16.0))).recipe
    assert read_size(recipe.data, 3000, 4000) == (1500, 2000)
    assert recipe.data.antialias
    # images that stay large go through windows
    recipe = fit(large._replace(thickness=(900.0, 8.0))).recipe
    assert (read_size(recipe.data, 3000, 4000), recipe.test.mode, recipe.test.window) == (
        (3000, 4000),
        "sliding",
        recipe.data.crop,
    )


def test_images_of_many_sizes_are_brought_to_one() -> None:
    data = fit(CELLS._replace(spread=3.0)).recipe.data
    assert data.base_scale == (512, 512)
    assert read_size(data, 1000, 2000) == (256, 512)


def test_small_images_get_small_crops_and_little_memory_small_batches() -> None:
    assert fit(CELLS._replace(height=90, width=200)).recipe.data.crop == (96, 224)
    assert fit(machine=Machine(gpu=False, memory=2.0)).recipe.train.batch_size == 2


def test_stray_pixels_decide_nothing() -> None:
    recipe = fit(CELLS._replace(pixels=(10_000_000, 3), thickness=(500.0, 0.5))).recipe
    assert read_size(recipe.data, 512, 512) == (512, 512)
    assert (recipe.loss.class_weights, recipe.data.rare_crops) == (None, 0)


def test_windows_and_smoothing_follow_from_the_scale_that_holds() -> None:
    large = CELLS._replace(height=4000, width=4000, largest=36_000_000, thickness=(900.0, 8.0))
    # a box makes the largest image as small as the others
    boxed = fit(CELLS._replace(height=1000, width=1000, largest=36_000_000, spread=3.0, thickness=(90.0, 40.0))).recipe
    assert (boxed.test.mode, boxed.data.antialias) == ("whole", True)
    own = fit_recipe(
        get_recipe(LITE0).override({"data.base_ratio": 1.0, "data.base_scale": None}),
        large._replace(thickness=(900.0, 200.0)),
        CPU,
        names=("ground", "thing"),
        keep=("data.base_ratio",),
    ).recipe
    assert (own.data.antialias, own.test.mode) == (False, "sliding")
    window = get_recipe(LITE0).override({"test.window": (128, 128)})
    kept = fit_recipe(window, large, CPU, names=("ground", "thing"), keep=("test.window",)).recipe
    assert (kept.test.window, kept.test.stride) == ((128, 128), (85, 85))


def test_a_gpu_trains_longer() -> None:
    many = CELLS._replace(images=5000)
    assert fit(many, GPU).recipe.train.steps == get_recipe(LITE0).train.steps > fit(many, CPU).recipe.train.steps


@given(
    keep=st.sets(st.sampled_from(["data.crop", "train.steps", "data.base_ratio", "loss.class_weights", "train.ema"])),
    height=st.integers(1, 30_000),
    width=st.integers(1, 30_000),
    pixels=st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)),
    thickness=st.tuples(st.floats(0, 10_000), st.floats(0, 10_000)),
    images=st.integers(1, 10**7),
    spread=st.floats(1, 1000),
    gpu=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_any_data_give_a_valid_recipe_that_keeps_what_flags_set(keep, gpu, pixels, **values) -> None:
    area = values["height"] * values["width"]
    found = Fingerprint(validation_pixels=area, largest=area, pixels=pixels, **values)
    for name in (name for name in list_recipes("folder/*")):
        recipe, changes, reasons = fit(found, GPU if gpu else CPU, recipe=name, keep=frozenset(keep))
        check_numbers(recipe)
        assert get_recipe(name).override(changes) == recipe
        assert not keep & changes.keys()
        assert len(reasons) == 3
        assert recipe.train.eval_every <= recipe.train.steps


def test_widths_of_drawn_regions() -> None:
    lines = np.zeros((200, 300), np.uint8)
    lines[50:52] = 1
    lines[150:155] = 2
    assert thickness([lines], 4) == pytest.approx([2 * 193 / 4, 2.0, 5.0, 0.0])
    # ignored pixels are no outline
    lines[49], lines[52] = 255, 255
    assert thickness([lines], 3)[1] == 300
    grid_y, grid_x = np.mgrid[:300, :300]
    disc = ((grid_y - 150) ** 2 + (grid_x - 150) ** 2 < 100**2).astype(np.uint8)
    # the perimeter of pixels is 4 diameters
    assert thickness([disc], 2)[1] == pytest.approx(2 * np.pi * 100**2 / 800, rel=0.02)


def test_a_folder_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    put_good(tmp_path / "set")
    data = DataRecipe(root=str(tmp_path / "set"))
    titles: list[tuple[str, int, bool]] = []
    monkeypatch.setattr(
        "semask.data.checks.scan.Progress",
        lambda title, total, *, quiet: titles.append((title, total, quiet)) or Progress(title, total, quiet=True),
    )
    found = fingerprint(data, classes_of(data), progress=True)
    assert [(total, quiet) for _, total, quiet in titles] == [(8, False)], "one scan of both splits"
    assert found[:6] == (6, 2 * 40 * 56, 40, 56, 1.0, 40 * 56)
    assert sum(found.pixels) == 6 * 40 * 56
    assert found.pixels[3] == 9
    assert len(found.thickness) == 4


def test_flags_are_kept_and_auto_false_keeps_the_recipe() -> None:
    keep = parse([LITE0, "--data.crop", "64", "64", "--train.steps=7", "--data.base-ratio", "0.5"]).keep
    assert keep is not None
    assert {"data.crop", "train.steps", "data.base_ratio"} <= keep
    assert parse([LITE0, "--auto", "false"]).keep is None
    assert parse(["ade20k/semask-swin-t-fpn"]).keep is None


def test_a_run_records_its_choice_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    put_good(tmp_path / "set")
    out = tmp_path / "run"
    flags = ["folder/semask-micro-fpn", "--data.root", str(tmp_path / "set"), "--out", str(out), "--workers", "0"]
    main([*flags, "--train.steps", "2", "--train.batch-size", "2"])
    changes = json.loads((out / "automatic.json").read_text())["changes"]
    assert changes["data.crop"] == [64, 64]
    assert "train.steps" not in changes
    recipe = json.loads((out / "recipe.json").read_text())["recipe"]
    assert recipe["data"]["crop"] == [64, 64]
    assert recipe["train"]["steps"] == 2
    # other data would choose otherwise; the run keeps its own
    Image.new("RGB", (400, 400)).save(tmp_path / "set/images/train/new.jpg")
    Image.new("L", (400, 400)).save(tmp_path / "set/labels/train/new.png")
    main([*flags, "--train.steps", "2", "--train.batch-size", "2", "--resume"])
    assert json.loads((out / "recipe.json").read_text())["recipe"]["data"]["crop"] == [64, 64]


def test_a_run_without_choice_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    put_good(tmp_path / "set")
    out = tmp_path / "run"
    flags = ["folder/semask-micro-fpn", "--data.root", str(tmp_path / "set"), "--out", str(out), "--workers", "0"]
    flags += ["--train.batch-size", "2", "--train.eval-every", "1"]
    main([*flags, "--train.steps", "1"])
    assert (out / "automatic.json").exists()
    main([*flags, "--train.steps", "1", "--auto", "false", "--overwrite"])
    assert not (out / "automatic.json").exists()
    main([*flags, "--train.steps", "2", "--resume"])
    assert json.loads((out / "recipe.json").read_text())["recipe"]["data"]["crop"] == [128, 128]


def test_classes_that_are_predicted_nowhere_are_named_with_flags() -> None:
    confusion = Confusion(3)
    truth = torch.tensor([0] * 98 + [1] * 2)
    confusion.update(torch.zeros(100, dtype=torch.long), truth)
    assert never_predicted(confusion.matrix) == [1]
    names, recipe = ("ground", "crack", "absent"), get_recipe(LITE0).override({"model.num_classes": 3})
    message = advice(confusion.matrix, names, recipe)
    assert message is not None
    wanted = ("crack", "2.00", "--loss.class-weights 1 7 1", "--data.rare-crops 0.5", "--train.steps 4000")
    assert all(fact in message for fact in wanted), message
    assert missing(message, "absent") == ["absent"]
    # equal weights are no advice
    even = Confusion(2)
    even.update(torch.zeros(2, dtype=torch.long), torch.tensor([0, 1]))
    message = advice(even.matrix, names[:2], recipe)
    assert message is not None
    assert missing(message, "--loss.class-weights", "--data.rare-crops 0.5") == ["--loss.class-weights"]
    message = advice(confusion.matrix, names, recipe)
    assert "crack 0.00" in class_line(confusion.scores(), names)
    # what was tried is not advised
    tried = recipe.override({"loss.class_weights": (1.0, 7.0, 1.0), "data.rare_crops": 0.5})
    message = advice(confusion.matrix, names, tried)
    assert message is not None
    assert "--loss.class-weights" not in message
    confusion.update(torch.tensor([1]), torch.tensor([1]))
    assert advice(confusion.matrix, names, recipe) is None


def test_a_scale_is_noted_where_there_is_one() -> None:
    assert scale_note(DataRecipe(), 512, 512) is None
    note = scale_note(DataRecipe(base_scale=(768, 192)), 512, 512)
    assert note is not None
    assert "512×512" in note
    assert "192×192" in note
    assert "0.38" in note
