"""Attention of mixed widths, against PyTorch's; none of it in memory as a whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semask.ops import attention
from semask.ops.attention import sdpa_mixed_widths
from tests.unit.test_tiling import Largest


@pytest.mark.parametrize("num_classes", [1, 2, 19, 150, 171])
@pytest.mark.parametrize(("block", "kept"), [(512, 2048), (16, 2048), (16, 10)])
def test_against_pytorchs(monkeypatch: pytest.MonkeyPatch, num_classes: int, block: int, kept: int) -> None:
    """In one block, in blocks whose weights are kept, and in blocks that are made again."""
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "KEPT", kept)
    inputs = [torch.randn(2, 37, width, requires_grad=True) for width in (num_classes, num_classes, 24)]
    out = sdpa_mixed_widths(*inputs, scale=0.7)
    expected = F.scaled_dot_product_attention(*inputs, scale=0.7)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(out)
    pairs = zip(*(torch.autograd.grad(result, inputs, gradient) for result in (out, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_bfloat16() -> None:
    inputs = [torch.randn(1, 40, width) for width in (19, 19, 24)]
    exact = sdpa_mixed_widths(*inputs)
    rough = sdpa_mixed_widths(*(part.bfloat16() for part in inputs))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sdpa_mixed_widths(*inputs).float(), exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_rounded_once(autocast: bool) -> None:
    """Scores, softmax and sum are in float32, so that the result is the nearest bfloat16 of what is exact."""
    query, key, value = (torch.randn(1, 40, width).bfloat16() for width in (19, 19, 24))
    exact = (query.double() @ key.double().mT).softmax(-1) @ value.double()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = sdpa_mixed_widths(query, key, value)
    nearest = (exact.bfloat16().double() - exact).abs().mean()
    assert (found.double() - exact).abs().mean() < 1.01 * nearest


def test_what_is_masked_is_not_looked_at() -> None:
    query, key, value = (torch.randn(3, 6, width) for width in (4, 4, 5))
    mask = torch.eye(6, dtype=torch.bool) | (torch.rand(6, 6) < 0.5)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    torch.testing.assert_close(sdpa_mixed_widths(query, key, value, mask=mask), expected)


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_grows_with_the_square_of_the_tokens(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    monkeypatch.setattr(attention, "KEPT", 32)
    largest = []
    for tokens in (400, 800):
        inputs = [torch.randn(1, tokens, width, requires_grad=backward) for width in (5, 5, 8)]
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with Largest() as made, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = sdpa_mixed_widths(*inputs)
            if backward:
                out.sum().backward()
        assert made.numbers == 8 * tokens
        assert sum(held.values()) <= (3 * 8 + 1) * tokens  # queries, keys and values, be they few or many
        largest.append(made.numbers)
    assert largest[1] == 2 * largest[0]
