"""int8 files: smaller, with a promise on labelled images, or not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from PIL import Image

import semask
from semask.data.scenes.files import draw_files
from semask.exports import quantize
from semask.exports.runtime import find
from tests.unit.test_export import small


def test_int8_keeps_its_promise_or_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    draw_files(tmp_path / "data", (75, 101), 5, count=3)
    model = small(**{"data.kind": "files", "data.root": str(tmp_path / "data")})
    # its own label maps are the truth, so that it has something to lose
    for path in (tmp_path / "data/images/val").iterdir():
        Image.fromarray(model.predict(path).numpy()).save(tmp_path / f"data/labels/val/{path.stem}.png")
    options = {"precision": "int8", "size": (75, 101), "input": "floats", "max_class_drop": 100.0}
    file = semask.export(model, tmp_path / "int8", max_drop=20.0, **options)
    receipt = json.loads((tmp_path / "int8/export.json").read_text())
    assert receipt["form"]["precision"] == "int8"
    assert receipt["miou"]["difference"][0] >= -0.2
    # bytes inside
    import onnx

    kinds = [node.op_type for node in onnx.load(find(file)).graph.node]
    assert "QuantizeLinear" in kinds or "DequantizeLinear" in kinds
    # ranges of black images are those of no other
    measured = quantize.calibration_batches

    def black(*arguments: Any) -> Any:
        batches, notes = measured(*arguments)
        return [0 * batch for batch in batches], notes

    monkeypatch.setattr(quantize, "calibration_batches", black)
    with pytest.raises(ValueError, match=r"--max-drop|--max-class-drop"):
        semask.export(model, tmp_path / "never", **{**options, "max_drop": 0.0, "max_class_drop": 0.0})
    assert not (tmp_path / "never").exists()
