from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from semask import recipes
from semask.cli.main import main as semask
from semask.cli.train import parse
from tests.each import for_each
from tests.facts import missing

SCENES = "scenes/semask-micro-fpn"


def test_flags_reach_the_recipe_and_the_run() -> None:
    recipe, options, _ = parse(
        f"{SCENES} --optim.lr 0.5 --model.encoder.semantic.units 2 1 1 1 --train.steps 7 --train.ema 0.9 "
        "--model.encoder.semantic.windows 2 None None 4 --out somewhere --resume --from-scratch --devices 2 "
        "--strategy ddp".split()
    )
    given = recipes.get_recipe(SCENES)
    assert recipe.optim.lr == 0.5
    assert recipe.train.steps == 7
    assert recipe.train.ema == 0.9
    assert recipe.model.encoder.semantic.units == (2, 1, 1, 1)
    assert recipe.model.encoder.semantic.windows == (2, None, None, 4)
    assert (recipe.name, recipe.data, recipe.published) == (given.name, given.data, given.published)
    assert (options.out, options.resume, options.from_scratch) == (Path("somewhere"), "latest", True)
    assert (options.devices, options.strategy, options.overwrite) == (2, "ddp", False)


@for_each(recipes.list_recipes())
def test_without_flags_every_recipe_is_itself(name: str) -> None:
    recipe, options, _ = parse([name])
    assert recipe == recipes.get_recipe(name)
    assert options.resume is None


def test_yes_and_no_take_an_equals_sign() -> None:
    assert parse([SCENES, "--model.encoder.semantic.shift=true"]).recipe.model.encoder.semantic.shift is True


def test_every_yes_or_no_of_a_recipe_takes_a_value() -> None:
    recipe, *_ = parse([SCENES, "--train.freeze-encoder", "true", "--test.flip", "true", "--data.photometric", "false"])
    assert recipe.train.freeze_encoder
    assert recipe.test.flip
    assert not recipe.data.photometric


def test_resume_takes_a_path() -> None:
    assert parse([SCENES, "--resume", "runs/a/last.ckpt"]).options.resume == "runs/a/last.ckpt"
    assert parse([SCENES, "--resume", "--out", "b"]).options.resume == "latest"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the message of a command that must leave with status 2."""
    try:
        status = semask(["train", *arguments])
    except SystemExit as leaving:
        status = leaving.code
    assert status == 2
    captured = capsys.readouterr()
    return " ".join((captured.err + captured.out).split())


def test_wrong_input_is_told_with_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--workers", "0"]
    assert missing(refused(capsys, "scenes/semask-micro-fpm"), "'scenes/semask-micro-fpm'", SCENES) == []
    assert missing(refused(capsys, "--out", "x", SCENES), "semask train RECIPE", "'--out'") == []
    assert "--optim.lr" in refused(capsys, SCENES, "--optim.lrr", "1")
    assert missing(refused(capsys, SCENES, "--out", "/proc/nowhere/x"), "--out", "'/proc'") == []
    assert "train.steps" in refused(capsys, SCENES, "--train.steps", "0", *out)
    message = refused(capsys, SCENES, "--train.batch-size", "15", "--train.accumulate", "2", *out)
    assert "batch_size 15" in message
    assert "--train.batch-size 16" in message
    assert "--train.ema None" in refused(capsys, SCENES, "--train.ema", "0.9", "--strategy", "fsdp", *out)
    assert not (tmp_path / "run").exists()


def test_missing_data_and_weights_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--workers", "0"]
    message = refused(capsys, "camvid/semask-lite0-fpn-small", *out)
    assert "--data.root" in message
    absent = str(tmp_path / "absent")
    message = refused(capsys, "camvid/semask-lite0-fpn-small", "--data.root", absent, *out)
    assert absent in message
    weights = str(tmp_path / "swin.pth")
    message = refused(capsys, SCENES, "--model.encoder.weights", weights, *out)
    assert weights in message
    message = refused(capsys, SCENES, "--model.encoder.weights", weights, "--from-scratch", *out)
    assert missing(message, "--from-scratch", repr(weights)) == []
    message = refused(capsys, SCENES, "--model.num-classes", "3", *out)
    assert "--model.num-classes 12" in message


def test_help_has_the_defaults_of_the_named_recipe_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            semask(["train", *arguments])
        assert leaving.value.code == 0
        return re.sub(r"[\s│]+", " ", capsys.readouterr().out)

    def entry(text: str, flag: str) -> str:
        return text.partition(f" {flag} ")[2].partition(" --")[0]

    steps = recipes.get_recipe(SCENES).train.steps
    named = told(SCENES, "--help")
    assert missing(entry(named, "--train.steps"), f"default: {steps}") == []
    for asked in ("--help", "--help-all"):
        nameless = told(asked)
        assert missing(entry(nameless, "--train.steps"), "default") == ["default"]
        assert missing(entry(nameless, "--loss.dice"), "default") == ["default"]
        assert missing(entry(nameless, "--workers"), "default: 2") == [], "options of a run have their own"
    parts = ("--augment", "--encoder", "--decoder", "--pixel-decoder", "--semantic")
    losses = ("--loss.cross-entropy", "--loss.dice", "--loss.tversky", "--loss.lovasz", "--loss.focal")
    for text in (named, nameless):
        assert [flag for flag in (*parts, *losses) if f" {flag} " not in text] == []


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from semask.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'lightning', 'timm', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"
    assert "--model.encoder.weights" in done.stdout
    assert "--from-scratch" in done.stdout


def test_data_in_place_of_a_recipe_leads_to_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--data.root {tmp_path}")):
        parse([str(tmp_path)])
