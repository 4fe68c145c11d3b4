from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.record import write_record
from semask.cli import main as cli
from tests.facts import missing


def test_the_demo_leaves_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps instead of hundreds; all that is not learning is as in `make demo`."""
    # an earlier demo, which is replaced
    write_record(tmp_path, recipes.get_recipe("scenes/semask-micro-fpn"))
    (tmp_path / "last.ckpt").write_text("earlier")
    loaded: list[Path] = []
    load = store.load
    monkeypatch.setattr(store, "load", lambda path, **options: loaded.append(path) or load(path, **options))
    assert cli.main(["demo", "--out", str(tmp_path), "--steps", "2"]) == 0
    assert loaded == [tmp_path / "best"]
    told = capsys.readouterr().out
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["images"] == 200
    assert f"mIoU {100 * record['scores']['miou']:.2f}" in told
    assert all(f" {row['name']} " in told for row in record["scores"]["classes"])
    for name in ("best", "curves.png", "overview.png", "metrics.json", "metrics.png"):
        assert str(tmp_path / name) in told
    assert semask.load(str(tmp_path / "best")).num_classes == 12
    for name in ("curves.png", "overview.png", "metrics.png"):
        assert np.array(Image.open(tmp_path / name).convert("L")).std() > 5, "not blank"


@pytest.mark.parametrize("steps", ["-1", "0"])
def test_steps_that_are_none_are_refused_by_their_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--steps", steps]) == 2
    assert missing(capsys.readouterr().err, f"--steps {steps}") == []
    assert not (tmp_path / "demo").exists()


def test_the_demo_spares_other_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path, recipes.get_recipe("scenes/micro-fpn"))
    (tmp_path / "last.ckpt").write_text("precious")
    assert cli.main(["demo", "--out", str(tmp_path), "--steps", "2"]) == 2
    assert missing(capsys.readouterr().err, "scenes/micro-fpn", "--out") == []
    assert (tmp_path / "last.ckpt").read_text() == "precious"
    (tmp_path / "recipe.json").unlink()
    assert cli.main(["demo", "--out", str(tmp_path), "--steps", "2"]) == 2
    assert missing(capsys.readouterr().err, repr(str(tmp_path)), "--out") == []
