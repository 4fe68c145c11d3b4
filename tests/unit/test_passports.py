"""Exports as other programs read them: OpenVINO Model API by itself, QGIS Deepness and Triton by their rules."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import semask
from semask.exports.metadata import Form, keys, model_api
from semask.exports.runtime import open_export
from tests.unit.small_model import NAMES, exported

FLAGS: dict[str, dict[str, Any]] = {
    "tiles": {"output": "probabilities", "input": "floats", "size": (64, 64), "resolution": 12.5},
    "openvino": {"format": "openvino", "output": "probabilities", "input": "floats", "size": (64, 64)},
    "openvino_any": {"format": "openvino", "output": "probabilities", "input": "floats"},
    "triton": {"format": "triton", "name": 'a "name"'},
    "triton_fixed": {
        "format": "triton",
        "output": "probabilities",
        "input": "floats",
        "size": (64, 96),
        "batch": 2,
    },
    "triton_raw": {"format": "triton", "output": "raw", "input": "floats"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("passports")
    return {name: exported(folder / name, **flags) for name, flags in FLAGS.items()}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


# ---- OpenVINO Model API ----


def wrapped(path: Path, runtime: str) -> Any:
    """The wrapper that Model API chooses by the file's own keys."""
    from model_api.adapters import ONNXRuntimeAdapter, OpenvinoAdapter, create_core
    from model_api.models import Model

    if runtime == "onnxruntime":
        return Model.create_model(ONNXRuntimeAdapter(str(path)))
    # as exact as the proof: CPUs with bfloat16 would use it
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return Model.create_model(OpenvinoAdapter(create_core(), str(path), device="CPU", plugin_config=exact))


@pytest.mark.parametrize(
    ("name", "runtime", "size"),
    [
        ("tiles", "openvino", (64, 64)),
        ("tiles", "onnxruntime", (64, 64)),
        ("openvino", "openvino", (64, 64)),
        ("openvino_any", "openvino", (37, 81)),
    ],
)
def test_model_api(files: dict[str, Path], name: str, runtime: str, size: tuple[int, int]) -> None:
    from model_api.models import SegmentationModel
    from model_api.tilers import SemanticSegmentationTiler

    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = semask.load(files[name]).predict(image).numpy()
    assert len(np.unique(ours)) == len(NAMES)
    model = wrapped(files[name], runtime)
    assert isinstance(model, SegmentationModel)
    # its images are BGR
    found = model(image[..., ::-1].copy())
    assert np.array_equal(found.resultImage, ours)
    assert found.soft_prediction.shape == (*size, len(NAMES))
    # it names contours, and knows the number of classes where it merges tiles
    names = {contour.label for contour in model.get_contours(found)}
    assert names == {"road", "traffic_light", "car", "person"}
    for contour in model.get_contours(found):
        column, row = contour.shape[0][0]
        assert contour.label == NAMES[ours[row, column]].replace(" ", "_")
    if runtime == "openvino" and name != "openvino_any":
        large = np.tile(image, (2, 2, 1))
        tiler = SemanticSegmentationTiler(model, {"tile_size": 64, "tiles_overlap": 0.0, "tile_with_full_img": False})
        assert np.array_equal(tiler(large[..., ::-1].copy()).resultImage, np.tile(ours, (2, 2)))


def test_what_model_api_cannot_take_has_no_keys(files: dict[str, Path]) -> None:
    metadata = open_export(files["tiles"]).metadata
    form = metadata.form

    def has(**changes: Any) -> bool:
        values = {**vars(form), **changes}
        return bool(model_api(Form(**values), NAMES))

    assert has()
    assert not any(has(output=output) for output in ("labels", "confidence", "raw"))
    assert not has(batch=2)
    assert not has(mean=(0.5,), std=(0.5,))
    assert "scale_values" not in model_api(Form(**{**vars(form), "input": "bytes"}), NAMES)
    any_size = type(metadata)(Form(**{**vars(form), "size": None}), metadata.recipe, metadata.classes)
    assert not [key for key in keys(any_size) if key.startswith("model_info")]


# ---- QGIS Deepness ----


def test_deepness(files: dict[str, Path], image: np.ndarray) -> None:
    model = session(files["tiles"])
    found = model.get_modelmeta().custom_metadata_map
    # every value is a JSON text
    deepness = (
        "model_type",
        "class_names",
        "resolution",
        "tile_size",
        "tiles_size",
        "tiles_overlap",
        "seg_thresh",
        "seg_small_segment",
    )
    values = {key: json.loads(found[key]) for key in deepness}
    assert values["model_type"].capitalize() == "Segmentor"
    assert [int(key) for key in values["class_names"]] == [*range(len(NAMES))]
    assert tuple(values["class_names"].values()) == NAMES
    assert values["resolution"] == 12.5
    assert (values["tile_size"], values["tiles_size"]) == (64, 64)
    assert isinstance(values["tiles_overlap"], int)
    assert 0 <= values["tiles_overlap"] < 100
    # neither a threshold nor a filter, and the normalisation is in the graph
    assert (values["seg_thresh"], values["seg_small_segment"]) == (0, 0)
    assert not [key for key in found if key.startswith("standardization")]
    # one input of NCHW with known channels and a known square; one output of as many pixels and two classes or more
    (taken,), (given,) = model.get_inputs(), model.get_outputs()
    assert taken.shape[1:] == [3, 64, 64]
    assert given.shape[1:] == [len(NAMES), 64, 64]
    # its way to the classes
    ours = semask.load(files["tiles"]).predict(image).numpy()
    for tile in (np.float32(image * 1.0 / 255.0), image.astype(np.float32) * np.float32(1 / 255)):
        (scores,) = model.run(None, {taken.name: tile[None, :, :, :3].transpose(0, 3, 1, 2)})
        scores = np.where(scores < values["seg_thresh"], 0, scores)
        assert np.allclose(scores.sum(1), 1, atol=1e-6)
        assert np.array_equal(scores.argmax(1)[0], ours)


def test_other_forms_are_nothing_for_deepness(files: dict[str, Path]) -> None:
    metadata = open_export(files["tiles"]).metadata
    for changes in ({"size": (64, 96)}, {"size": None}, {"output": "scores"}, {"input": "bytes"}):
        other = type(metadata)(Form(**{**vars(metadata.form), **changes}), metadata.recipe, metadata.classes)
        assert "model_type" not in keys(other), changes


def test_names_as_a_literal_of_python(files: dict[str, Path]) -> None:
    found = session(files["tiles"]).get_modelmeta().custom_metadata_map
    assert ast.literal_eval(found["names"]) == dict(enumerate(NAMES))


# ---- Triton ----


CONFIG = """
name: "model_config.proto" package: "inference" syntax: "proto3"
enum_type { name: "DataType" value { name: "TYPE_INVALID" number: 0 } value { name: "TYPE_UINT8" number: 2 }
  value { name: "TYPE_FP32" number: 11 } }
message_type { name: "ModelDynamicBatching" }
message_type { name: "ModelInput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".inference.DataType" }
  field { name: "dims" number: 4 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "ModelOutput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".inference.DataType" }
  field { name: "dims" number: 3 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "ModelConfig"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "backend" number: 17 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "max_batch_size" number: 4 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "input" number: 5 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".inference.ModelInput" }
  field { name: "output" number: 6 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".inference.ModelOutput" }
  field { name: "dynamic_batching" number: 11 label: LABEL_OPTIONAL type: TYPE_MESSAGE
    type_name: ".inference.ModelDynamicBatching" } }
"""
"""Fields of the server's model_config.proto that exports use."""


def model_config(text: str) -> Any:
    """A config.pbtxt by protobuf's own parser, which refuses fields that it does not know."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(CONFIG, descriptor_pb2.FileDescriptorProto()))
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(text, kind())


@pytest.mark.parametrize("name", ["triton", "triton_fixed", "triton_raw"])
def test_triton(files: dict[str, Path], name: str) -> None:
    file, batched = files[name], FLAGS[name].get("batch") is None
    assert file.relative_to(file.parents[1]) == Path("1/model.onnx")
    config = model_config((file.parents[1] / "config.pbtxt").read_text())
    assert config.name == FLAGS[name].get("name", "semask")
    assert config.backend == "onnxruntime"
    assert (config.max_batch_size > 0) == batched == config.HasField("dynamic_batching")
    # names, types and shapes are those of the graph; sizes that it does not know are -1
    graph = onnx.load(file).graph
    for listed, theirs in ((config.input, graph.input), (config.output, graph.output)):
        assert [each.name for each in listed] == [each.name for each in theirs]
        for each, value in zip(listed, theirs, strict=True):
            tensor = value.type.tensor_type
            types = {2: onnx.TensorProto.UINT8, 11: onnx.TensorProto.FLOAT}
            assert types[each.data_type] == tensor.elem_type, each.name
            sides = [-1 if side.dim_param else side.dim_value for side in tensor.shape.dim]
            if batched:
                assert sides[0] == -1
            expected = sides[1:] if batched else sides
            assert len(each.dims) == len(expected)
            assert all(got in (side, -1) for got, side in zip(each.dims, expected, strict=True)), each.name
            assert name == "triton_raw" or [*each.dims] == expected


def test_triton_answers_like_the_model(files: dict[str, Path], image: np.ndarray) -> None:
    """What a client sends for the shapes of the configuration."""
    (labels,) = session(files["triton"]).run(None, {"images": np.stack([image, image[::-1]])})
    ours = semask.load(files["triton"]).labels(
        torch.from_numpy(np.stack([image, image[::-1]]) / np.float32(255)).permute(0, 3, 1, 2)
    )
    assert np.array_equal(labels, ours.numpy())
