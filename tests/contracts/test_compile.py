"""Models compile without a break, to one graph for all sizes: Dynamo alone, and a few with all that follows."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from tests.contracts.test_models import CASES, tensors, tiny

SIZES = ((2, 173, 197), (3, 256, 384))
"""Windows of 4 tokens tile all of Swin's maps of the latter and none of the former's, and every map has several along
both axes; no ViT has a position for each of their tokens, and for PSANet both have even maps: those are graphs of their
own."""
ONE_OF_EACH = {decoder: case for case in reversed(CASES) for decoder in [case[1]]} | {
    encoder: case for case in reversed(CASES) for encoder in [case[0]]
}


@pytest.fixture(autouse=True)
def _sizes_are_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted({*ONE_OF_EACH.values()}), ids=str)
def test_compiles_without_a_break(case: tuple[str, str, bool]) -> None:
    encoder, decoder, semantic = case
    model = tiny(encoder, decoder, semantic=semantic)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for batch, height, width in SIZES:
        images = torch.rand(batch, 3, height, width)
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
            pairs = zip(tensors(compiled(images)), tensors(model(images)), strict=True)
            for mine, eager in pairs:
                torch.testing.assert_close(mine, eager, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder"), [("swin", "semantic_fpn"), ("mit", "segformer"), ("vit", "segmenter_mask")]
)
def test_inductors_code_is_the_same_model(encoder: str, decoder: str) -> None:
    model = tiny(encoder, decoder, semantic=encoder == "swin")
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(images)
        for mine, eager in zip(tensors(compiled), tensors(model(images)), strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-4)
