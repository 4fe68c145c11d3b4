"""`semask export`: files of every format, their metadata, their proof and its refusals."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.checkpoints.store import save
from semask.cli import compare, evaluate, export, predict
from semask.data.classes import Classes
from semask.data.scenes.files import draw_files
from semask.data.scenes.scene import draw_scene
from semask.evaluation.record import read_record
from semask.exports import onnx as onnx_format
from semask.exports import verify
from semask.exports.graph import ExportedGraph
from semask.exports.runtime import open_export
from semask.inference import build_predictor
from semask.models.model import SegmentationModel
from semask.recipes import TestRecipe
from semask.recipes.decoders import decoder_options


def small(classes: int = 5, **changes: Any) -> SegmentationModel:
    """A model that exports in a few seconds, with labels of all classes."""
    torch.manual_seed(2)
    model = semask.create_model(
        "test_efficientnet", decoder_options("segformer_mmseg", channels=16), num_classes=classes
    )
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
        scene = torch.from_numpy(draw_scene(0, (70, 90))[0]).permute(2, 0, 1)[None] / 255
        model.decoder.classify.bias -= model.scores(scene).mean((0, 2, 3))
    assert model.recipe is not None
    model.recipe = model.recipe.override({"data.base_scale": None, "data.crop": (64, 64), **changes})
    return model


@pytest.fixture(autouse=True, scope="module")
def _symbolic_sizes() -> Iterator[None]:
    """A symbolic size is no int to the checks of shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, labelled images in odd sizes, and exports of the checkpoint."""
    folder = tmp_path_factory.mktemp("export")
    draw_files(folder / "data", (75, 101), 5, count=3)
    save(small(**{"data.kind": "files", "data.root": str(folder / "data")}), folder / "model",
         classes=Classes.load(folder / "data/classes.json"))  # fmt: skip
    for name, flags in {
        "labels": (),
        "raw": ("--output", "raw"),
        "openvino": ("--format", "openvino", "--output", "confidence"),
        "fixed": ("--size", "64", "96", "--batch", "2", "--output", "scores", "--input", "floats"),
    }.items():
        export.main([str(folder / "model"), str(folder / name), *flags])
    return folder


EXPORTS = ("labels", "raw", "openvino", "fixed")


def test_receipt_has_the_proof(folder: Path) -> None:
    for name in EXPORTS:
        receipt = json.loads((folder / name / "export.json").read_text())
        assert receipt["agreement"] >= verify.LEAST_AGREEMENT
        assert (receipt["largest_difference"] is None) == (name == "labels")
        assert (receipt["largest_difference"] or 0) <= verify.LARGEST_DIFFERENCE
        assert abs(receipt["miou"]["difference"][0]) < 1e-4
        assert {(1, 1), (97, 131)} <= {tuple(case["size"]) for case in receipt["cases"]} or name == "fixed"
        assert {case["batch"] for case in receipt["cases"]} >= {1, 3}
        assert receipt["speed"]["ratio"] > 0
        assert "semask export" in (folder / name / "export.html").read_text()


def test_files_predict_as_their_model(folder: Path) -> None:
    model = semask.load(folder / "model")
    image = next((folder / "data/images/val").glob("*.jpg"))
    wanted = model.predict(image)
    for name in ("labels", "raw", "openvino"):
        loaded = semask.load(folder / name)
        assert torch.equal(torch.as_tensor(loaded.predict(image)), torch.as_tensor(wanted)), name
        assert loaded.classes == model.classes
        assert loaded.recipe == model.recipe
        # in another process
        again = pickle.loads(pickle.dumps(loaded))
        assert torch.equal(torch.as_tensor(again.predict(image)), torch.as_tensor(wanted)), name
    assert len(wanted.unique()) > 1


def test_predictors_take_a_file(folder: Path) -> None:
    """Windows, scales and flips around a raw file give what they give around the model."""
    model, raw, labels = (semask.load(folder / name) for name in ("model", "raw", "labels"))
    assert model.recipe is not None
    images = torch.rand(2, 3, 70, 90)
    for test in (
        TestRecipe(mode="sliding", window=(48, 48), stride=(32, 32), blend="hann", batch_size=3),
        TestRecipe(scales=(0.75, 1.25), flip=True),
    ):
        ours, theirs = (build_predictor(each, test, model.recipe.data) for each in (model, raw))
        assert torch.equal(ours.labels(images), theirs.labels(images))
        torch.testing.assert_close(ours.labelled(images).confidence, theirs.labelled(images).confidence)
    # windows side by side need no scores; those that overlap do
    side = TestRecipe(mode="sliding", window=(35, 45), stride=(35, 45))
    rounded = torch.from_numpy(draw_scene(0, (70, 90))[0]).permute(2, 0, 1)[None] / 255
    expected = build_predictor(model, side, model.recipe.data).labels(rounded)
    assert torch.equal(build_predictor(labels, side, model.recipe.data).labels(rounded), expected)
    with pytest.raises(ValueError, match="raw"):
        build_predictor(labels, TestRecipe(flip=True), model.recipe.data).labels(rounded)


def test_fixed_file_takes_its_size_and_smaller(folder: Path) -> None:
    model, fixed = semask.load(folder / "model"), open_export(folder / "fixed")
    whole, part = torch.rand(3, 3, 64, 96), torch.rand(1, 3, 40, 51)
    torch.testing.assert_close(fixed.lazy_scores(whole).rows(0, 64), model.scores(whole), rtol=0, atol=1e-4)
    padded = verify.Padded(model, fixed.metadata.form).lazy_scores(part)
    torch.testing.assert_close(fixed.lazy_scores(part).rows(0, 40), padded.rows(0, 40), rtol=0, atol=1e-4)
    assert padded.shape == (1, 5, 40, 51)
    with pytest.raises(ValueError, match="64×96"):
        fixed.lazy_scores(torch.rand(1, 3, 65, 96))
    # larger images go through windows
    assert tuple(fixed.predict(torch.rand(3, 100, 130)).shape) == (100, 130)


def test_bytes_are_bytes(folder: Path) -> None:
    labels = semask.load(folder / "labels")
    assert labels.metadata.form.input == "bytes"
    with pytest.raises(ValueError, match="--input floats"):
        labels.lazy_scores(torch.full((1, 3, 8, 8), 0.5))
    with pytest.raises(ValueError, match="3 channels"):
        labels.lazy_scores(torch.zeros(1, 4, 8, 8))


def test_commands_take_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # the same label maps
    for name in ("model", "labels", "raw/model.onnx", "openvino/model.xml"):
        predict.main([str(folder / name), str(folder / "data/images/val"), "--out", name.partition("/")[0]])
    for path in (tmp_path / "model/predictions").iterdir():
        wanted = np.asarray(Image.open(path))
        for name in ("labels", "raw", "openvino"):
            assert np.array_equal(np.asarray(Image.open(tmp_path / name / "predictions" / path.name)), wanted), name
    # the same record
    flags = ["--workers", "0", "--gallery", "0"]
    for name in ("model", "raw/model.onnx", "labels"):
        evaluate.main([str(folder / name), "--out", f"{name.partition('/')[0]}.json", *flags])
    ours, raw, labels = (read_record(f"{name}.json").values for name in ("model", "raw", "labels"))
    for name, value in ours["scores"].items():
        if isinstance(value, float):
            assert abs(raw["scores"][name] - value) < 1e-4
            assert abs(labels["scores"][name] - value) < 1e-4
    assert abs(raw["calibration"]["ece"] - ours["calibration"]["ece"]) < 1e-4
    assert "calibration" not in labels
    compare.main(["model.json", "raw.json", "--out", "difference.json", "--resamples", "20"])
    assert abs(json.loads(Path("difference.json").read_text())["difference"]["miou"][0]) < 1e-4


def wrong_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ExportedGraph.forward
    monkeypatch.setattr(ExportedGraph, "forward", lambda graph, images: forward(graph, images + 0.05))


def truncating_division(monkeypatch: pytest.MonkeyPatch) -> None:
    translations = onnx_format._translations

    def without(runtime: Any) -> Any:
        return {key: value for key, value in translations(runtime).items() if "floordiv" not in str(key)}

    monkeypatch.setattr(onnx_format, "_translations", without)


def coarse_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    from onnx import numpy_helper

    exported = onnx_format.to_onnx

    def coarse(*arguments: Any, **options: Any) -> Any:
        model = exported(*arguments, **options)
        last = next(node for node in reversed(model.graph.node) if node.op_type == "Conv")
        weight = next(each for each in model.graph.initializer if each.name == last.input[1])
        values = numpy_helper.to_array(weight)
        step = np.abs(values).max() / 7
        weight.CopyFrom(numpy_helper.from_array((values / step).round().astype(np.float32) * step, weight.name))
        assert isinstance(model, onnx.ModelProto)
        return model

    monkeypatch.setattr(onnx_format, "to_onnx", coarse)


@pytest.mark.parametrize(
    ("fault", "output"), [(wrong_mean, "labels"), (truncating_division, "labels"), (coarse_last_layer, "raw")]
)
def test_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, output: str) -> None:
    fault(monkeypatch)
    with pytest.raises(ValueError, match=r"\d of \d+ pixels|model.onnx"):
        semask.export(small(), tmp_path / "out", output=output, input="floats")
    assert not list(tmp_path.iterdir())


def test_options_are_checked_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    rescaled = small(**{"data.base_scale": (96, 64)})
    for model, options, named in (
        (small(), {"max_drop": -1.0}, "--max-drop"),
        (rescaled, {"input": "bytes"}, "--input floats"),
        (small(), {"precision": "bf16"}, "--precision fp16"),
        (small(), {"precision": "fp16"}, "--data.root"),
        (small(), {"format": "torch", "precision": "fp16"}, "openvino"),
        (folder / "labels", {}, "checkpoint"),
        (tmp_path / "nothing", {}, "nothing"),
    ):
        with pytest.raises(ValueError, match=named):
            semask.export(model, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="full"):
        semask.export(small(), tmp_path / "full", overwrite=True)
    with pytest.raises(ValueError, match="--overwrite"):
        semask.export(small(), folder / "labels")
    assert (tmp_path / "full/thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_form_follows_the_recipe(tmp_path: Path) -> None:
    from semask.checkpoints.export import _form
    from semask.recipes.export import ExportOptions

    for changes, output, given in (
        ({}, "labels", "bytes"),
        ({"data.base_scale": (96, 64)}, "raw", "floats"),
        ({"test.mode": "sliding"}, "raw", "floats"),
        ({"test.flip": True}, "raw", "floats"),
        ({"data.value_range": (0.0, 4095.0)}, "labels", "floats"),
    ):
        model = small(**changes)
        assert model.recipe is not None
        form = _form(model, model.recipe, ExportOptions())
        assert (form.output, form.input, form.size, form.batch) == (output, given, None, None), changes
    form = _form(small(), small().recipe, ExportOptions(format="torch"))
    assert (form.size, form.batch) == ((64, 64), 1)


def test_torch_program(tmp_path: Path) -> None:
    model = small()
    file = model.export(tmp_path / "out", format="torch", output="probabilities")
    exported, images = open_export(file), torch.rand(1, 3, 64, 64)
    wanted = model.scores(images).softmax(1)
    torch.testing.assert_close(exported.lazy_scores(images).rows(0, 64), wanted, rtol=0, atol=1e-5)
