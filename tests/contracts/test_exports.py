"""Every encoder under every decoder as an ONNX file for any batch, height and width."""

from __future__ import annotations

from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from semask.exports.graph import ExportedGraph
from semask.exports.onnx import to_onnx, trace
from tests.contracts.test_models import CASES, PLAIN, name_of, tiny

QUICK = {("efficientnet", "semantic_fpn", True), ("segmenter", "segmenter_mask", False), ("resnet_8", "psanet", False)}
"""A pyramid with semantic layers, a plain ViT, and the decoder whose form depends on odd sides; the others are slow."""
SIZES = ((1, 61, 77), (3, 99, 135), (2, 33, 7), (1, 1, 1))
"""Batch, height and width [px]: sides that divide by nothing, three images, less than a window, one pixel."""


def session_of(graph: ExportedGraph, *, any_size: bool = True) -> Any:
    import onnxruntime

    program = trace(graph, torch.rand(2, 3, 160, 192), any_size=any_size, any_batch=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(
        to_onnx(program, graph.names, runtime="onnxruntime").SerializeToString(), options, ["CPUExecutionProvider"]
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES], ids=name_of
)
def test_onnx_equals_eager_at_any_size(monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, bool]) -> None:
    encoder, decoder, semantic = case
    model = tiny(encoder, decoder, semantic=semantic).eval()
    if encoder in PLAIN:  # of its twelve blocks alike
        model.encoder.backbone.blocks = model.encoder.backbone.blocks[:2]
    with torch.no_grad():  # random heads vote for one class everywhere
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    session = session_of(ExportedGraph(model, output="scores"))
    labels = session_of(ExportedGraph(model, output="labels"))
    for batch, *size in SIZES:
        images = torch.rand(batch, 3, *size)
        with torch.inference_mode():
            scores = model.scores(images)
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.abs(found - scores.numpy()).max() <= 1e-5 * max(1, float(scores.abs().max())), (name_of(case), size)
        # the best class, or one of those that tie but for rounding
        (best,) = labels.run(None, {"images": images.numpy()})
        chosen = scores.gather(1, torch.from_numpy(best)[:, None].long())[:, 0]
        assert float((scores.amax(1) - chosen).max()) <= 1e-5 * max(1, float(scores.abs().max())), (name_of(case), size)
