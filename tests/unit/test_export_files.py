"""Broken and hostile files in place of exports: each is refused with a ValueError, and nothing of theirs runs."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import semask
from semask.data.checks.cache import cache_folder
from semask.exports.metadata import KEY
from semask.exports.origin import FILE
from semask.exports.runtime import open_export
from tests.facts import facts
from tests.unit.small_model import exported

FIXED = {"output": "probabilities", "input": "floats", "size": (64, 64), "batch": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound file of every format that needs no extra."""
    folder = tmp_path_factory.mktemp("sound")
    return {name: exported(folder / name, format=name, **FIXED) for name in ("onnx", "openvino", "torch")}


@pytest.fixture
def sound(files: dict[str, Path]) -> onnx.ModelProto:
    return onnx.load(files["onnx"])


def refused(path: Path, *wanted: object) -> None:
    with pytest.raises(ValueError, match=facts(*wanted)):
        open_export(path)


def written(model: onnx.ModelProto, folder: Path) -> Path:
    """The model as a file, of which ONNX's own checks may think what they like."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_sound_files_open(files: dict[str, Path]) -> None:
    images = torch.rand(1, 3, 64, 64)
    maps = [open_export(path).lazy_scores(images).rows(0, 64) for path in files.values()]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=0, atol=1e-5)


# ---- bytes ----


def test_broken_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for source in files.values():
        path, content = tmp_path / source.name, source.read_bytes()
        if source.suffix == ".xml":
            shutil.copy(source.with_suffix(".bin"), path.with_suffix(".bin"))
        parts = [content[: int(share * len(content))] for share in (0, 0.01, 0.3, 0.5, 0.9, 0.99)]
        parts += [rng.bytes(4096), b"<html></html>", b"\x80\x04.", b"PK\x03\x04" + rng.bytes(100), b"{" * 100_000]
        for part in parts:
            path.write_bytes(part)
            refused(path)


def test_flipped_bytes_open_or_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("onnx", "openvino"):
        source, path = files[name], tmp_path / files[name].name
        if name == "openvino":
            shutil.copy(source.with_suffix(".bin"), path.with_suffix(".bin"))
        content = np.frombuffer(source.read_bytes(), np.uint8)
        for _ in range(25):
            flipped = content.copy()
            flipped[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(flipped.tobytes())
            try:
                open_export(path)
            except ValueError:
                continue


def test_places_without_an_export(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.txt").write_text("text")
    for path in (tmp_path / "folder", tmp_path / "model.txt", tmp_path / "model.onnx"):
        refused(path, path.name)
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**31 + 1)
    refused(tmp_path / "model.onnx", 2**31 + 1)


# ---- ONNX: what a graph may refer to ----


def test_onnx_without_our_record(sound: onnx.ModelProto, tmp_path: Path) -> None:
    del sound.metadata_props[:]
    refused(written(sound, tmp_path), KEY)


def elsewhere(location: str) -> TensorProto:
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_graph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def in_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["elsewhere"], value=tensor))


def in_branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    value = helper.make_tensor_value_info("elsewhere", TensorProto.FLOAT, [4])
    inner = helper.make_graph([], "inner", [], [value], initializer=[tensor])
    inner = helper.make_graph([_either(inner)], "outer", [], [helper.make_tensor_value_info("chosen", 1, [4])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    model.graph.node.insert(
        0, helper.make_node("If", ["true"], ["chosen_outside"], then_branch=inner, else_branch=inner)
    )


def _either(graph: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["true"], ["chosen"], then_branch=graph, else_branch=graph)


def in_sparse(model: onnx.ModelProto, tensor: TensorProto) -> None:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["elsewhere"], value=tensor)
    function = helper.make_function(
        "pkg.onnxscript.torch_lib", "Place", [], ["elsewhere"], [node], [*model.opset_import]
    )
    model.functions.append(function)


def test_onnx_with_data_elsewhere(sound: onnx.ModelProto, tmp_path: Path) -> None:
    place = tmp_path / "export"
    place.mkdir()
    for path in (tmp_path / "secret.bin", place / "own.bin"):
        path.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (place / "link.bin").symlink_to(tmp_path / "secret.bin")
    locations = ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "own.bin", "*/_ORT_MEM_ADDR_/*")
    for put in (in_graph, in_constant, in_branch, in_sparse, in_function):
        for location in locations:
            model = copy.deepcopy(sound)
            put(model, elsewhere(location))
            refused(written(model, place), "model.onnx")


def test_onnx_with_operators_of_others(sound: onnx.ModelProto, tmp_path: Path) -> None:
    node = helper.make_node("Run", [], ["anything"], domain="org.example")
    imported, called, function = (copy.deepcopy(sound) for _ in range(3))
    imported.opset_import.append(helper.make_opsetid("org.example", 1))
    called.graph.node.insert(0, node)
    inner = helper.make_function("pkg.onnxscript.torch_lib", "Wrap", [], ["anything"], [node], [*sound.opset_import])
    function.functions.append(inner)
    for model in (imported, called, function):
        refused(written(model, tmp_path), "org.example")


def test_onnx_that_declares_more_than_it_has(sound: onnx.ModelProto, tmp_path: Path) -> None:
    for dims in ([2**40], [2**62, 2**62], [-1]):
        model = copy.deepcopy(sound)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        del weight.dims[:]
        weight.dims.extend(dims)
        refused(written(model, tmp_path))


def test_onnx_with_other_inputs(sound: onnx.ModelProto, tmp_path: Path) -> None:
    sound.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    refused(written(sound, tmp_path))


# ---- records ----

WRONG: dict[str, list[Any]] = {
    "format": ["pickle", None, [], {}],
    "output": ["everything", None, 3, ["labels"]],
    "input": ["video", None],
    "precision": ["float128", None],
    "size": [[64], [64, -64], [0, 64], [64.0, 64.0], 64, "64", [64, 2**40], [True, True], [[64], [64]]],
    "fixed_size": [[0, 0], "any"],
    "batch": [0, -1, 1.5, "1", True, 2**40],
    "num_classes": [0, -1, None, 2.0, "5", True, 2**40],
    "size_multiple": [0, None, -32],
    "mean": [[], None, ["a", "b", "c"], [0.5], [float("nan")] * 3, [[0.5]] * 3, 0.5],
    "std": [[], None, [0.0, 1.0, 1.0], [1.0], [float("inf")] * 3, [-1.0, 1.0, 1.0]],
    "scores_are_logits": [None, 1, "yes"],
    "align_corners": [None, 0],
    "weights": [None, 5],
}


def test_records_of_other_forms(sound: onnx.ModelProto, tmp_path: Path) -> None:
    (entry,) = (each for each in sound.metadata_props if each.key == KEY)
    record = json.loads(entry.value)

    def rewritten() -> Iterator[dict[str, Any] | list[Any] | str]:
        for field, values in WRONG.items():
            for value in values:
                yield {**record, "export": {**record["export"], field: value}}
            yield {**record, "export": {key: value for key, value in record["export"].items() if key != field}}
        yield {**record, "export": {**record["export"], "run": "this"}}
        for field, values in {
            "export": [None, [], "onnx", {}],
            "recipe": [
                None,
                [],
                5,
                {},
                {**record["recipe"], "data": {"channels": 4}},
                {**record["recipe"], "model": 1},
            ],
            "classes": [5, ["sky"], {"classes": ["sky", "road"]}, {"classes": 3}, "camvid"],
            "format": [None, 0, record["format"] + 1, "semask"],
        }.items():
            yield from ({**record, field: value} for value in values)
            yield {key: value for key, value in record.items() if key != field}
        yield from ([], "text", "{", "[" * 10_000, "9" * 10_000)

    for number, value in enumerate(rewritten()):
        entry.value = value if isinstance(value, str) else json.dumps(value)
        path = written(sound, tmp_path)
        try:
            refused(path, "model.onnx")
        except BaseException as error:
            raise AssertionError((number, entry.value[-600:])) from error


# ---- OpenVINO ----


def test_openvino(files: dict[str, Path], tmp_path: Path) -> None:
    source, path = files["openvino"], tmp_path / "model.xml"
    text = source.read_text()
    # without weights, with too few of them, and with a link to others' in their place
    path.write_text(text)
    refused(path)
    path.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes()[:100])
    refused(path)
    shutil.copy(source.with_suffix(".bin"), path.with_suffix(".bin"))
    assert open_export(path).num_classes == 5
    entities = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
    for wrong in (
        "<net></net>",
        '<?xml version="1.0"?><net name="a" version="11"><layers/><edges/></net>',
        text.replace('type="Convolution"', 'type="RunThis"'),
        text.replace('version="opset1"', 'version="org.example"', 1),
        text.replace('size="', 'size="9999999999'),
        text.replace('offset="', 'offset="-'),
        text.replace("&quot;", ""),
        entities + text.replace(KEY, "&a;&b;"),
    ):
        assert wrong != text
        path.write_text(wrong)
        refused(path)


# ---- programs of PyTorch, which run what is in them ----


class Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


Change = Callable[[str, bytes, Path], bytes]


def sample_inputs(name: str, content: bytes, trace: Path) -> bytes:
    return pickle.dumps(Touch(trace)) if name.endswith("sample_inputs/model.pt") else content


def size_expression(name: str, content: bytes, trace: Path) -> bytes:
    if not name.endswith("models/model.json"):
        return content
    program = json.loads(content)
    values = program["graph_module"]["graph"]["tensor_values"]
    code = f"__import__('os').system(\"touch '{trace}'\")"
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}
    return json.dumps(program).encode()


def pickled_weight(name: str, content: bytes, trace: Path) -> bytes:
    if name.endswith("weights/weight_0"):
        return pickle.dumps(Touch(trace))
    if name.endswith("model_weights_config.json"):
        # without the blank that a search for text would look for
        return json.dumps(json.loads(content), separators=(",", ":")).replace("false", "true", 1).encode()
    return content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [sample_inputs, size_expression, pickled_weight])
def test_programs_of_others_are_not_run(files: dict[str, Path], tmp_path: Path, change: Change) -> None:
    path, trace = tmp_path / "model.pt2", tmp_path / "trace"
    with zipfile.ZipFile(files["torch"]) as source, zipfile.ZipFile(path, "w") as changed:
        for name in source.namelist():
            changed.writestr(name, change(name, source.read(name), trace))
    for load in (open_export, semask.load):
        with pytest.raises(ValueError, match=facts("--format onnx", "sha256sum")):
            load(path)
    assert not trace.exists()
    # the attack is a real one: PyTorch by itself runs it
    with pytest.raises((RuntimeError, AttributeError)):
        torch.export.load(io.BytesIO(path.read_bytes()))
    assert trace.exists()


def test_programs_of_this_user(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "model.pt2"
    shutil.copy(files["torch"], moved)
    assert open_export(moved).num_classes == 5
    # on another machine, until its user trusts the file
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "other"))
    refused(moved, cache_folder() / FILE)
    cache_folder().mkdir()
    os.system(f"sha256sum '{moved}' >> '{cache_folder() / FILE}'")
    assert open_export(moved).num_classes == 5
    moved.write_bytes(moved.read_bytes() + b"\0")
    refused(moved, FILE)


def test_archives_that_are_no_programs(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    for names, content in (
        ((), b""),
        (("model/extra/other",), b"{}"),
        ((f"model/extra/{KEY}",), b"\xff\xfe"),
        ((f"model/extra/{KEY}",), b" " * (2**24 + 1)),
        ((f"model/extra/{KEY}", "model/models/model.json"), b"{}"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)
        refused(path)


def test_executorch(sound: onnx.ModelProto, tmp_path: Path) -> None:
    """Its record lies beside; without one, or with one and another content, the file is refused."""
    path = tmp_path / "model.pte"
    path.write_bytes(b"ET12" * 100)
    refused(path, KEY)
    (entry,) = (each for each in sound.metadata_props if each.key == KEY)
    (tmp_path / "recipe.json").write_text(entry.value)
    refused(path, path)
