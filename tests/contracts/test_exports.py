"""Every encoder under every decoder as an ONNX file for any batch, height and width."""

from __future__ import annotations

from typing import Any

import jaxtyping
import pytest
import torch

from semask.exports.graph import ExportedGraph
from semask.exports.onnx import to_onnx, trace
from semask.models.model import SegmentationModel
from tests.contracts.test_models import CASES, PLAIN, name_of, tiny

QUICK = {("segmenter", "segmenter_mask", False), ("resnet_8", "psanet", False)}
"""A plain ViT, and the decoder whose form depends on odd sides; tests/unit/test_export.py has a pyramid."""
SIZES = ((1, 61, 77), (3, 99, 135), (2, 33, 7), (1, 1, 1))
"""Batch, height and width [px]: sides that divide by nothing, three images, less than a window, one pixel."""


def session_of(graph: ExportedGraph) -> Any:
    import onnxruntime

    program = trace(graph, torch.rand(2, 3, 160, 192), any_size=True, any_batch=True)
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
    session = session_of(ExportedGraph(model, output="confidence"))
    for batch, *size in SIZES:
        images = torch.rand(batch, 3, *size)
        with torch.inference_mode():
            scores = model.scores(images)
        labels, confidence = (torch.from_numpy(each) for each in session.run(None, {"images": images.numpy()}))
        # the best class, or one of those that tie but for rounding
        margin = 1e-5 * max(1, float(scores.abs().max()))
        chosen = scores.gather(1, labels[:, None].long())[:, 0]
        assert float((scores.amax(1) - chosen).max()) <= margin, (name_of(case), size)
        # in float64 where eager rounds more than the file: rounding grows with the scores
        if not are_close(model, confidence, scores):
            with torch.inference_mode():
                scores = model.double().scores(images.double())
            model.float()
            assert are_close(model, confidence, scores), (name_of(case), size)


def are_close(model: SegmentationModel, confidence: torch.Tensor, scores: torch.Tensor) -> bool:
    if not model.classifies_masks:
        return bool(((confidence - scores.softmax(1).amax(1)).abs() <= 1e-5).all())
    # the share of a sum near zero is no measure
    total = scores.sum(1)
    differences = (confidence - scores.amax(1) / total).abs()
    return bool(((differences <= 1e-5 + 1e-4 / total) | (total <= 1e-3)).all())
