from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from semask.checkpoints import store
from semask.checkpoints.convert import load_published
from semask.cli import main as cli
from tests.facts import missing
from tests.reference.synthetic_weights import checkpoint

RECIPE = "ade20k/seg-t-mask-16"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint.pth as Segmenter's authors save it, without its variant.yml."""
    path = tmp_path_factory.mktemp("seg_tiny_mask") / "checkpoint.pth"
    torch.save({"model": checkpoint("segmenter/seg_t_mask_16"), "optimizer": {}, "n_cls": 150, "epoch": 63}, path)
    return path


def test_a_published_file_becomes_a_checkpoint(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(published), RECIPE, str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert missing(told, 183, "checkpoint.pth", RECIPE, "Segmenter", "variant.yml", tmp_path / "out") == []
    assert "mmsegmentation" not in told
    bundle = store.load(tmp_path / "out")
    assert bundle.recipe.name == RECIPE
    assert bundle.recipe.model.encoder.norm_eps == 1e-5
    assert bundle.classes is not None
    assert len(bundle.classes.names) == 150
    assert bundle.classes.names[:2] == ("wall", "building"), "the data set's own names, which the file does not carry"
    expected = load_published(published, RECIPE).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in bundle.model.state_dict().items())


def test_another_class_count_is_reported(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", str(published), RECIPE, str(out), "--num-classes", "7"]) == 0
    told = capsys.readouterr().out
    assert missing(told, 180, 3, "decoder.class_embeddings", "decoder.mask_norm.weight") == []
    bundle = store.load(out)
    assert bundle.model.num_classes == 7
    assert bundle.classes is None


def test_arrays_are_read_where_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {key: value.numpy() for key, value in checkpoint("segmenter/seg_t_mask_16").items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party"}))
    arguments = ["convert", str(tmp_path / "zoo.pkl"), RECIPE, str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert missing(capsys.readouterr().err, "zoo.pkl", "numpy", "--trust") == []
    assert not (tmp_path / "out").exists()
    assert cli.main([*arguments, "--trust"]) == 0
    assert missing(capsys.readouterr().out, 183, "zoo.pkl", RECIPE) == []


def test_a_file_of_another_model_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(published), "ade20k/seg-t-16", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert missing(told, 33, "decoder.cls_emb, decoder.proj_patch", "'ade20k/seg-t-16'", "'ade20k/seg-t-mask-16'") == []
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_overwritten_unasked(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    arguments = ["convert", str(published), RECIPE, str(tmp_path)]
    assert cli.main(arguments) == 2
    assert missing(capsys.readouterr().err, repr(str(tmp_path)), "--overwrite") == []
    assert (tmp_path / "recipe.json").read_text() == "{}"


def test_segmenter_with_its_variant(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checkpoint.pth"
    file.hardlink_to(published)
    arguments = ["convert", str(file), RECIPE, str(tmp_path / "out")]
    variant = file.with_name("variant.yml")
    variant.write_text("net_kwargs: {backbone: vit_tiny_patch16_384, n_cls: 150, decoder: {name: mask_transformer}}")
    assert cli.main(arguments) == 0
    assert missing(capsys.readouterr().out, 183, file.name, RECIPE, "variant.yml") == []
    variant.write_text("net_kwargs: !!python/object/apply:os.system ['touch harmed']")
    assert cli.main([*arguments, "--overwrite"]) == 2
    assert missing(capsys.readouterr().err, "'tag:yaml.org,2002:python/object/apply:os.system'", str(variant)) == []
    assert not Path("harmed").exists()


def test_the_numerics_of_mmsegmentation_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "segmenter_vit-t_mask.pth"
    torch.save({"meta": {}, "state_dict": checkpoint("mmsegmentation/segmenter_vit_t_mask_150_64x96")}, path)
    path.with_name("variant.yml").write_text("not asked: [of this layout")
    assert cli.main(["convert", str(path), "ade20k/seg-t-mask-16", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert missing(told, "mmsegmentation", "Segmenter", "norm_eps", "1e-6", "drop_path", 0.1) == []
    bundle = store.load(tmp_path / "out")
    encoder, decoder = bundle.recipe.model.encoder, bundle.recipe.model.decoder
    assert (encoder.norm_eps, encoder.position_resize, encoder.drop_path) == (1e-6, "bicubic", 0.1)
    assert (decoder.dropout, decoder.drop_path) == (0.0, 0.1)
    assert (bundle.recipe.test.stride, bundle.recipe.test.enlarge) == ((480, 480), False)
    assert bundle.recipe.published.miou is None, "the paper's figures are of other weights"
    expected = load_published(path, "ade20k/seg-t-mask-16").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in bundle.model.state_dict().items())
