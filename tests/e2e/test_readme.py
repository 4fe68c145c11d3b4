"""The README's commands and its Python, run as they stand; its table of models, compared with the catalogue."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools.write_models import markdown

from semask.cli.main import main
from semask.cli.models import rows_of
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from tests.facts import missing

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"<!-- run -->\n```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ as the README draws it."""
    place = tmp_path_factory.mktemp("newcomer")
    for folder in ("images", "labels"):
        (place / "photos" / folder).mkdir(parents=True)
    for number in range(12):
        image, label = draw_scene(number, (96, 128))
        Image.fromarray(np.asarray(image)).save(place / "photos" / "images" / f"street_{number:03}.jpg", quality=95)
        Image.fromarray(np.asarray(label)).save(place / "photos" / "labels" / f"street_{number:03}.png")
    (place / "photos" / "classes.json").write_text(json.dumps({"classes": list(SCENE_CLASSES.names)}))
    return place


@pytest.fixture
def run(newcomer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a line of the README in the newcomer's folder and returns what it prints.

    In this process: most of what such a command takes elsewhere is importing PyTorch. That commands also import what
    they need in a process of their own is seen of two lines, as_process, and by other tests of train and predict.
    """
    monkeypatch.chdir(newcomer)

    def here(command: str) -> str:
        program, *arguments = command.split()
        assert program == "semask"
        capsys.readouterr()
        assert main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
        return capsys.readouterr().out

    return here


def as_process(command: str, place: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command.split(), cwd=place, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shorter(command: str) -> str:
    """The same with a tenth of the steps, which take most of a minute and change nothing that is looked at."""
    assert "--train.steps 120 --train.eval-every 60 " in command
    return command.replace("--train.steps 120 --train.eval-every 60 ", "--train.steps 12 --train.eval-every 6 ")


def test_commands_and_python_as_written(newcomer: Path, run: Callable[[str], str]) -> None:
    (shell, measure, _), (python, inside) = blocks("bash"), blocks("python")
    train, evaluate, predict, models, resume = shell.strip().splitlines()
    run(shorter(train))
    assert "mIoU" in as_process(evaluate, newcomer)
    run(predict)
    assert "cityscapes/seg-l-mask-16" in as_process(models, newcomer)
    run(shorter(resume))
    assert len(python.strip().splitlines()) == 12
    for command in measure.strip().splitlines():
        run(command)
    assert (newcomer / "runs/photos/comparison.html").is_file()
    assert "semask-ms" in (newcomer / "runs/photos/table.md").read_text()
    for block in (python, inside):
        exec(compile(block, "README.md", "exec"), {})
    assert {path.stem for path in newcomer.glob("*.png")} == {"attention", "distances", "classes"}
    metrics = json.loads((newcomer / "runs/photos/best/metrics.json").read_text())
    assert 0 < metrics["scores"]["miou"] < 1
    for folder, suffix in (("predictions", "png"), ("overlays", "jpg"), ("priors", "png")):
        assert len(list((newcomer / "segmented" / folder).glob(f"*.{suffix}"))) == 12


def test_the_ablations_as_written(newcomer: Path, run: Callable[[str], str]) -> None:
    *_, shell = blocks("bash")
    listed, trained = [run(command) for command in shell.strip().splitlines()]
    assert missing(listed, 9, 650) == []
    assert missing(trained, "###", "λ") == []
    assert (newcomer / "runs/table4/table.json").is_file()


def test_the_table_of_models_is_from_the_catalogue() -> None:
    table = re.search(r"<!-- models -->\n(.*?)<!-- /models -->", README, re.DOTALL)
    assert table is not None
    shown = re.findall(r"^\| `(.*?)`", table[1], re.MULTILINE)
    assert len(shown) > 10
    assert table[1].strip() == markdown(rows_of(shown)).strip()
    assert "docs/models.md" in README


def test_every_file_that_the_readme_names_exists() -> None:
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"`((?:docs|tests)/[\w/.]+|[A-Z]+\.md)`", README):
        assert (ROOT / name).exists(), name
