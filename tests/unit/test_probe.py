"""What the ablations supervise in place of semantic maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semask.models.build import build, build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.encoders import EncoderOptions, SemanticLayers, StageProbe, SwinOptions
from tests.facts import facts

MICRO = SwinOptions(
    weights=None,
    embed_dim=16,
    depths=(2, 1, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_size=4,
    semantic=SemanticLayers(windows=(4, 4, None, None)),
)
CLASSES = 5


def encoders(probe: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The probed encoder and the plain one of the same weights."""
    torch.manual_seed(0)
    probed = build_encoder(replace(MICRO, semantic=StageProbe(reads=probe)), CLASSES).eval()
    plain = build_encoder(replace(MICRO, semantic=None), CLASSES).eval()
    missing, unexpected = plain.load_state_dict(probed.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith("semantic.") for key in unexpected)
    return probed, plain


@pytest.mark.parametrize("probe", ["features", "queries"])
def test_probes_leave_the_backbone_as_it_is(probe: str) -> None:
    probed, plain = encoders(probe)
    images = torch.randn(2, 3, 57, 70)
    with torch.inference_mode():
        ours, theirs = probed(images), plain(images)
    for left, right in zip(ours.maps, theirs.maps, strict=True):
        torch.testing.assert_close(left, right)
    assert theirs.priors == ()
    assert [prior.shape for prior in ours.priors] == [(2, CLASSES, *level.shape[-2:]) for level in ours.maps]


def test_queries_are_those_that_attend() -> None:
    """Hooks see what enters and leaves the projection of the last block of every stage."""
    probed, _ = encoders("queries")
    seen: list[torch.Tensor] = []
    for name in ("layers_0", "layers_1", "layers_2", "layers_3"):
        block = probed.chain[name].blocks[-1]
        block.norm1.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        out = probed(torch.randn(1, 3, 64, 64))
        for stage, (normalised, probe) in enumerate(zip(seen, probed.semantic, strict=True)):
            block = probed.chain[f"layers_{stage}"].blocks[-1]
            queries = block.attn.qkv(normalised)[..., : normalised.shape[-1]]
            torch.testing.assert_close(out.priors[stage], probe.classify(queries).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (
            encoder_options("resnet18", semantic=StageProbe(reads="queries")),
            ("Swin", "'resnet18'", "--model.encoder.semantic.reads features"),
        ),
        (
            replace(MICRO, semantic=SemanticLayers(gain="one", dead_init=True)),
            ("λ", "--model.encoder.semantic.gain learned", "--model.encoder.semantic.dead-init false"),
        ),
        (
            replace(MICRO, semantic=SemanticLayers(shift=True, windows=(None,) * 4)),
            ("semantic.shift", 2, "--model.encoder.semantic.windows", (None,) * 4),
        ),
        (
            replace(MICRO, semantic=SemanticLayers(shift=True, windows=(4, None, None, None))),
            ("semantic.shift", 2, (4, None, None, None)),
        ),
    ],
)
def test_contradictions_are_refused(encoder: EncoderOptions, told: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder)))
