"""Queries' attention against PyTorch's own modules with the same weights."""

import pytest
import torch
from torch import nn

from semask.models.layers.attention import CrossAttention, QueryLayer
from tests.facts import facts

WIDTH, HEADS = 12, 3


def fill(theirs: nn.MultiheadAttention, ours: CrossAttention) -> None:
    with torch.no_grad():
        for part in (ours.query, ours.key, ours.value, ours.project):
            nn.init.normal_(part.bias)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in (ours.query, ours.key, ours.value)]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in (ours.query, ours.key, ours.value)]))
    theirs.out_proj.load_state_dict(ours.project.state_dict())


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, WIDTH, generator=generator)
    key, value = torch.randn(2, 2, 7, WIDTH, generator=generator)
    visible = torch.rand(2, 4, 7, generator=generator) < 0.4
    visible[..., 3] = True
    return query, key, value, visible


@pytest.mark.parametrize("masked", [False, True])
def test_equals_multihead_attention(masked: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = CrossAttention(WIDTH, num_heads=HEADS), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    fill(theirs, ours)
    query, key, value, visible = inputs()
    hidden = ~visible.repeat_interleave(HEADS, 0)
    expected, _ = theirs(query, key, value, attn_mask=hidden if masked else None)
    found = ours(query, key, value, visible if masked else None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert masked == (not torch.allclose(found, ours(query, key, value)))


def test_what_is_hidden_does_not_matter() -> None:
    ours = CrossAttention(WIDTH, num_heads=HEADS)
    query, key, value, visible = inputs()
    visible[:, :, 5] = False
    out = ours(query, key, value, visible)
    key[:, 5], value[:, 5] = 1e3, -1e3
    torch.testing.assert_close(ours(query, key, value, visible), out)


def test_starts_as_multihead_attention_does() -> None:
    """The bound of Xavier's uniform for three matrices in one, and for the projection."""
    ours = CrossAttention(64, num_heads=HEADS + 1)
    for part, rows in ((ours.query, 192), (ours.key, 192), (ours.value, 192), (ours.project, 64)):
        bound = (6 / (64 + rows)) ** 0.5
        assert 0.98 * bound < part.weight.abs().max() <= bound
        assert not part.bias.any()


def test_self_attention_first_is_the_decoder_layer_of_pytorch() -> None:
    torch.manual_seed(0)
    ours = QueryLayer(WIDTH, num_heads=HEADS, hidden=20, self_attention_first=True)
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, dim_feedforward=20, dropout=0.0, batch_first=True)
    fill(theirs.self_attn, ours.self_attention)
    fill(theirs.multihead_attn, ours.cross_attention)
    for name, module in (
        ("norm1", ours.self_norm),
        ("norm2", ours.cross_norm),
        ("norm3", ours.mlp.norm),
        ("linear1", ours.mlp.fc1),
        ("linear2", ours.mlp.fc2),
    ):
        getattr(theirs, name).load_state_dict(module.state_dict())
    query, key, _, _ = inputs()
    out = ours(query, torch.zeros(1, 4, WIDTH), key, key)
    torch.testing.assert_close(out, theirs(query, key), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("self_attention_first", [False, True])
def test_order_and_positions(self_attention_first: bool) -> None:
    """Positions are added to what asks and to the queries' keys, never to values."""
    torch.manual_seed(0)
    layer = QueryLayer(WIDTH, num_heads=HEADS, hidden=20, self_attention_first=self_attention_first)
    around, across = (nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2))
    fill(around, layer.self_attention)
    fill(across, layer.cross_attention)
    query, key, value, visible = inputs()
    positions = torch.randn(1, 4, WIDTH)

    def look_around(x: torch.Tensor) -> torch.Tensor:
        return layer.self_norm(x + around(x + positions, x + positions, x)[0])

    x = look_around(query) if self_attention_first else query
    x = layer.cross_norm(x + across(x + positions, key, value, attn_mask=~visible.repeat_interleave(HEADS, 0))[0])
    x = x if self_attention_first else look_around(x)
    expected = layer.mlp.norm(x + layer.mlp.fc2(layer.mlp.fc1(x).clamp(min=0)))
    torch.testing.assert_close(layer(query, positions, key, value, visible), expected, rtol=1e-4, atol=1e-5)


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=facts(3, 20)):
        CrossAttention(20, num_heads=3)
