"""What the ablations supervise in place of semantic maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semask.build import build_encoder, build_model
from semask.recipes import EncoderRecipe, ModelRecipe, Recipe

MICRO = EncoderRecipe(
    weights=None,
    embed_dim=16,
    depths=(2, 1, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_size=4,
    semantic_windows=(4, 4, None, None),
)
CLASSES = 5


def encoders(probe: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The probed encoder and the plain one of the same weights."""
    torch.manual_seed(0)
    probed = build_encoder(replace(MICRO, probe=probe), CLASSES).eval()
    plain = build_encoder(MICRO, CLASSES).eval()
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
    ("changes", "message"),
    [
        ({"probe": "features", "semantic_layers": True}, "say --model.encoder.semantic-layers false"),
        ({"name": "resnet18", "probe": "queries", "embed_dim": None, "depths": None, "num_heads": None, "window_size": None}, "'resnet18' is no Swin"),
        ({"semantic_layers": True, "semantic_gain": "one", "semantic_dead_init": True}, "is that of a learned λ"),
        ({"semantic_layers": True, "semantic_shift": True, "semantic_windows": (None,) * 4}, "none of these has windows"),
        ({"semantic_layers": True, "semantic_shift": True, "semantic_windows": (4, None, None, None)}, "none of these has windows"),
        ({"semantic_gain": "one", "semantic_shift": True}, "semantic_gain, semantic_shift speak of semantic layers"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=replace(MICRO, **changes))))
