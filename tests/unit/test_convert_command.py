from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semask import cli
from semask.checkpoints import store
from semask.checkpoints.convert import load_published
from tests.reference.synthetic_weights import checkpoint

RECIPE = "ade20k/semask-swin-t-fpn"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "semask_tiny_fpn_ade20k.pth"
    torch.save({"state_dict": checkpoint("semask_swin_t_fpn_150_64x96"), "meta": {}}, path)
    return path


def test_a_published_file_becomes_a_checkpoint(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(published), RECIPE, str(tmp_path / "out")]) == 0
    assert " tensors of semask_tiny_fpn_ade20k.pth fill ade20k/semask-swin-t-fpn." in capsys.readouterr().out
    bundle = store.load(tmp_path / "out")
    assert bundle.recipe.name == RECIPE
    assert bundle.classes is not None
    assert len(bundle.classes.names) == 150, "the data set's own names, which the file does not carry"
    expected = load_published(published, RECIPE).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in bundle.model.state_dict().items())


def test_another_class_count_is_reported(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", str(published), RECIPE, str(out), "--num-classes", "7"]) == 0
    told = capsys.readouterr().out
    assert "start fresh" in told
    assert "decoder.classify.weight" in told
    bundle = store.load(out)
    assert bundle.model.num_classes == 7
    assert bundle.classes is None


def test_a_file_of_another_model_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(published), "ade20k/swin-t-fpn", str(tmp_path / "out")]) == 2
    assert "unexpected: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_overwritten_unasked(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    arguments = ["convert", str(published), "ade20k/swin-t-fpn", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert "holds a checkpoint or run already" in capsys.readouterr().err
    assert (tmp_path / "recipe.json").read_text() == "{}"
