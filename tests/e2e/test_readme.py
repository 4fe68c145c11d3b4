"""The commands and the Python of README and docs, run as written; the table of models, compared with the catalogue."""

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
from tests.conftest import SHARED
from tests.facts import missing

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"<!-- run -->\n```{language}\n(.*?)```", PAGES[page], re.DOTALL)


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


@pytest.fixture
def weights() -> str:
    """Flags in place of timm's hub: the weights as a file, where there are any."""
    file = SHARED / "weights/efficientnet_lite0/model.safetensors"
    return f"--model.encoder.weights {file}" if file.exists() else "--from-scratch"


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


def test_the_readme_as_written(newcomer: Path, run: Callable[[str], str], weights: str) -> None:
    assert README.splitlines().index("```bash") < 40
    (python,), (shell,) = blocks("README.md", "python"), blocks("README.md", "bash")
    assert len(python.strip().splitlines()) <= 7
    exec(compile(python, "README.md", "exec"), {})
    doctor, train, evaluate, predict = shell.strip().splitlines()
    run(doctor)
    run(f"{train} {weights} --train.steps 12 --train.eval-every 6")
    assert "mIoU" in as_process(evaluate, newcomer)
    run(predict)
    metrics = json.loads((newcomer / "runs/photos/best/metrics.json").read_text())
    assert 0 < metrics["scores"]["miou"] < 1
    for folder, suffix in (("predictions", "png"), ("overlays", "jpg"), ("priors", "png")):
        assert len(list((newcomer / "segmented" / folder).glob(f"*.{suffix}"))) == 12


def test_training_on_ones_own_images_as_written(run: Callable[[str], str]) -> None:
    (shell,) = blocks("training.md", "bash")
    doctor, train, resume = shell.strip().splitlines()
    run(doctor)
    run(shorter(train))
    run(shorter(resume))


def test_measuring_as_written(newcomer: Path, run: Callable[[str], str]) -> None:
    for command in blocks("evaluation.md", "bash")[0].strip().splitlines():
        run(command)
    assert (newcomer / "runs/photos/comparison.html").is_file()
    assert "semask-ms" in (newcomer / "runs/photos/table.md").read_text()


@pytest.mark.parametrize("page", ["python.md", "explain.md"])
def test_python_as_written(newcomer: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.chdir(newcomer)
    assert blocks(page, "python")
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {"__name__": page})
    if page == "explain.md":
        assert {path.stem for path in newcomer.glob("*.png")} == {"attention", "distances", "classes"}


def test_the_ablations_as_written(newcomer: Path, run: Callable[[str], str]) -> None:
    (shell,) = blocks("ablations.md", "bash")
    listed, trained = [run(command) for command in shell.strip().splitlines()]
    assert missing(listed, 9, 650) == []
    assert missing(trained, "###", "λ") == []
    assert (newcomer / "runs/table4/table.json").is_file()


def test_no_page_is_left_out() -> None:
    found = {name for name in PAGES if blocks(name, "bash") or blocks(name, "python")}
    assert found == {"README.md", "training.md", "evaluation.md", "python.md", "explain.md", "ablations.md"}


def test_the_table_of_models_is_from_the_catalogue() -> None:
    table = re.search(r"<!-- models -->\n(.*?)<!-- /models -->", README, re.DOTALL)
    assert table is not None
    shown = re.findall(r"^\| `(.*?)`", table[1], re.MULTILINE)
    assert len(shown) > 10
    assert table[1].strip() == markdown(rows_of(shown)).strip()
    assert "docs/models.md" in README


def test_links_lead_somewhere() -> None:
    problems = []
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        links = re.findall(r"\]\(((?!http|#)[^)#]+)[^)]*\)", text)
        problems += [f"{page}: {link}" for link in links if not (folder / link).exists()]
        names = re.findall(r"`((?:docs|tests|src|benchmarks|tools)/[\w/.]+|[A-Z]+\.md)`", text)
        problems += [f"{page}: {name}" for name in names if not (ROOT / name).exists()]
    assert problems == []
