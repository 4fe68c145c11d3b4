"""Mix Transformers: sizes, attention against brute force, small maps, rates of stochastic depth, semantic layers."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from semask.checkpoints.rules.mix_transformer import chain_tensors
from semask.models.build import build, build_encoder
from semask.models.encoders.hierarchical import HierarchicalEncoder
from semask.models.encoders.kinds import encoder_options
from semask.models.encoders.mix_transformer import EfficientAttention, MixFFN, Reduction, Size, mix_transformer
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.encoders import SemanticLayers
from semask.structures import Features
from tests.facts import facts


def small(*, semantic: bool = False, **options: object) -> HierarchicalEncoder:
    torch.manual_seed(0)
    spec = encoder_options("mit_b0", weights=None, semantic=SemanticLayers() if semantic else None, **options)
    return build_encoder(spec, 5, crop=(64, 64)).eval()


@torch.inference_mode()
def test_attention_by_hand() -> None:
    """Head by head and token by token, keys and values from squares of 2 × 2 tokens."""
    torch.manual_seed(1)
    attention = EfficientAttention(6, num_heads=3, reduction=2, eps=1e-6)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, 6, 6)
    squares = [x[0, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2, 4)]
    conv = attention.reduce.conv
    coarse = torch.stack([torch.einsum("ijc,ocij->o", square, conv.weight) + conv.bias for square in squares])
    coarse = F.layer_norm(coarse, (6,), attention.reduce.norm.weight, attention.reduce.norm.bias, 1e-6)
    query, key, value = attention.query(x.reshape(24, 6)), attention.key(coarse), attention.value(coarse)
    mixed = torch.zeros(24, 6)
    for token in range(24):
        for head in range(3):
            part = slice(2 * head, 2 * head + 2)
            weights = torch.tensor([float(query[token, part] @ key[k, part]) / math.sqrt(2) for k in range(6)])
            mixed[token, part] = weights.softmax(0) @ value[:, part]
    expected = attention.project(mixed).reshape(1, 4, 6, 6)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)


def test_the_convolution_tells_tokens_where_they_are() -> None:
    """A map of equal tokens differs at its borders alone, where zeros are seen."""
    torch.manual_seed(2)
    out = MixFFN(4)(torch.ones(1, 5, 7, 4))
    inside = out[:, 1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:, :1, :1].expand_as(inside))
    assert (out[:, 0, 3] - out[:, 2, 3]).abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 8), (8, 3), (17, 23)])
def test_reduction_of_any_map(height: int, width: int) -> None:
    """Maps smaller than a square are padded with zeros; what is left over is not looked at."""
    torch.manual_seed(3)
    reduce = Reduction(3, 8, eps=1e-6)
    x = torch.randn(2, height, width, 3)
    out = reduce(x)
    assert out.shape == (2, max(height // 8, 1), max(width // 8, 1), 3)
    padded = torch.zeros(2, max(height, 8), max(width, 8), 3)
    padded[:, :height, :width] = x
    torch.testing.assert_close(out, reduce(padded))
    beyond = padded.clone()
    beyond[:, 8 * out.shape[1] :] = 100
    torch.testing.assert_close(reduce(beyond), reduce(padded))


def test_rates_of_stochastic_depth_rise_over_all_blocks() -> None:
    chain = mix_transformer(Size((8, 16, 20, 16), (2, 1, 3, 1)), drop_path=0.3)
    rates = [module.drop_prob for module in chain.modules.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.3 * block / 6 for block in range(7) for _ in range(2)])


def test_epsilon_is_the_recipes() -> None:
    for told, used in ((None, 1e-6), (1e-5, 1e-5)):
        assert {m.eps for m in small(norm_eps=told).modules() if isinstance(m, nn.LayerNorm)} == {used}


def with_semantics(place: str, plain: HierarchicalEncoder) -> HierarchicalEncoder:
    encoder = small(semantic=True, semantic_place=place)
    encoder.load_state_dict(plain.state_dict(), strict=False)
    return encoder


@pytest.fixture(scope="module")
def plain() -> HierarchicalEncoder:
    """An encoder whose norms have learned something."""
    encoder = small()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return encoder


@pytest.mark.parametrize("place", ["before_norm", "after_norm"])
def test_where_the_semantic_layer_stands(plain: HierarchicalEncoder, place: str) -> None:
    """Step by step, with λ at work in every stage."""
    encoder = with_semantics(place, plain)
    for layer in encoder.semantic:
        nn.init.constant_(layer.units[0].gain, 0.7)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        x: Tensor = images
        maps, priors = [], []
        for stage in range(4):
            x = encoder.chain[f"stage{stage + 1}"](x)
            norm, semantic = encoder.chain[f"norm{stage + 1}"], encoder.semantic[stage]
            if place == "before_norm":
                x, prior = semantic(x)
                x = norm(x)
            else:
                x, prior = semantic(norm(x))
            maps.append(x.permute(0, 3, 1, 2))
            priors.append(prior.permute(0, 3, 1, 2))
        found = encoder(images)
    assert isinstance(found, Features)
    for mine, expected in zip((*found.maps, *found.priors), (*maps, *priors), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_before_the_norm_the_pretrained_encoder_stays_as_it_is(plain: HierarchicalEncoder) -> None:
    """Decision 0011: at λ = 0 a stage's norm sees normalised tokens, which it normalises to the same."""
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = plain(images).maps
        before, after = (with_semantics(place, plain)(images).maps for place in ("before_norm", "after_norm"))
    for kept, lost, level in zip(before, after, expected, strict=True):
        torch.testing.assert_close(kept, level, rtol=0, atol=1e-4)
        assert (lost - level).abs().max() > 0.1


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (lambda: encoder_options("mit_b9"), ("'mit_b9'", "mit_b5", "mit_b0")),
        (lambda: encoder_options("mitb4"), ("'mitb4'", "mit_b4", "mit_b0")),
        (lambda: encoder_options("mit_b0", depths=(1, 1, 1, 1)), ("mix_transformer", "depths")),
        (lambda: encoder_options("mit_b0", image_size=(64, 64)), ("mix_transformer", "image_size")),
        (lambda: encoder_options("resnet18", semantic_place="after_norm"), ("dilatable", "semantic_place")),
    ],
)
def test_what_does_not_belong_to_it_is_refused(encoder: Callable[[], EncoderOptions], told: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder())))


@pytest.mark.slow
def test_export_takes_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HierarchicalEncoder(mix_transformer(Size((4, 8, 10, 8), (1, 1, 1, 1)))).eval()
    tall, wide = (torch.export.Dim(name, min=2, max=16) for name in ("tall", "wide"))
    shapes = ({0: torch.export.Dim("batch", min=1, max=16), 2: 32 * tall, 3: 32 * wide},)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    program = torch.export.export(encoder, (torch.rand(2, 3, 128, 96),), dynamic_shapes=shapes)
    images = torch.rand(3, 3, 64, 160)
    with torch.inference_mode():
        for ours, theirs in zip(program.module()(images).maps, encoder(images).maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_unknown_names_of_tensors_are_none_of_its() -> None:
    value = torch.rand(4)
    for key in ("head.weight", "classifier.bias", "decode_head.conv_seg.weight", "neck.norm1.weight"):
        assert chain_tensors(key, value) == []
    for key in ("block1.0.attn.unheard_of.weight", "patch_embed1.unheard_of", "block1.0.odd"):
        assert len(chain_tensors(key, value)) == 1
