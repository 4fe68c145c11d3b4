"""Attention with a learned bias, against PyTorch's own, and what it keeps for its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from semask.ops import attention as module
from semask.ops.attention import biased_attention


def formula(joint: Tensor, bias: Tensor) -> Tensor:
    """Write the formula out."""
    heads = len(bias)
    query, key, value = joint.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.mT * query.shape[-1] ** -0.5 + bias).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def inputs(windows: int, heads: int, n: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    joint = torch.randn(windows, n, 3 * heads * width, dtype=dtype, requires_grad=True)
    bias = 3 * torch.randn(heads, n, n, dtype=dtype)
    bias[:, :, 0] -= 100.0  # as what a shift keeps apart
    return joint, bias.requires_grad_()


@pytest.mark.parametrize(
    ("windows", "heads", "n", "width"), [(1, 1, 1, 1), (5, 3, 49, 32), (3, 1, 49, 8), (7, 2, 144, 16), (2, 4, 9, 5)]
)
@pytest.mark.parametrize("block", [2048, 100, 1])
def test_against_the_formula(
    monkeypatch: pytest.MonkeyPatch, windows: int, heads: int, n: int, width: int, block: int
) -> None:
    """In one block, in some of which the last is smaller, and in windows one by one; nothing given is changed."""
    monkeypatch.setattr(module, "BLOCK_TOKENS", block)
    given = inputs(windows, heads, n, width)
    before = [tensor.detach().clone() for tensor in given]
    out, expected = biased_attention(*given), formula(*given)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(out)
    mine, theirs = (torch.autograd.grad(result, given, gradient) for result in (out, expected))
    for found, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max().clamp(min=1)))
    for tensor, was in zip(given, before, strict=True):
        assert torch.equal(tensor, was)


def test_gradient_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_TOKENS", 12)
    joint = torch.randn(3, 6, 3 * 2 * 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(2, 6, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(biased_attention, (joint, bias))


def test_a_gradient_that_lies_otherwise() -> None:
    """Of a sum the gradient is one number for all, without strides."""
    given = inputs(4, 2, 9, 8)
    mine, theirs = (torch.autograd.grad(attend(*given).sum(), given) for attend in (biased_attention, formula))
    for found, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_of_both_without_a_gradient(frozen: int) -> None:
    given = inputs(4, 2, 9, 8)
    given[frozen].requires_grad_(False)
    free = given[1 - frozen]
    mine, theirs = (torch.autograd.grad(attend(*given).square().sum(), free) for attend in (biased_attention, formula))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    """Gradients are made and summed in float32, whatever autocast chose: rounded once, as near as bfloat16 gets."""
    monkeypatch.setattr(module, "BLOCK_TOKENS", 49)
    joint, bias = (tensor.detach().bfloat16().requires_grad_() for tensor in inputs(6, 3, 49, 16))
    exact = [tensor.detach().double().requires_grad_() for tensor in (joint, bias)]
    gradient = torch.randn(6, 49, 48).bfloat16()
    wanted = torch.autograd.grad(formula(*exact), exact, gradient.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = biased_attention(joint, bias)
        found = torch.autograd.grad(out, (joint, bias), gradient)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), formula(*exact), rtol=0.02, atol=0.02)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.bfloat16
        nearest = (theirs.bfloat16().double() - theirs).abs().mean()
        assert (mine.double() - theirs).abs().mean() < 1.01 * nearest


def test_no_second_derivative() -> None:
    """It is refused, not left out of a sum in silence."""
    given = inputs(2, 2, 4, 3)
    slope, _ = torch.autograd.grad(biased_attention(*given).square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        slope.sum().backward()


def test_only_what_was_given_is_kept() -> None:
    """PyTorch's own keeps scaled queries and keys, and the weights of all pairs."""
    given = inputs(20, 3, 49, 32)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        biased_attention(*given)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in given}


def test_the_fused_kernel_runs_though_the_bias_is_learned() -> None:
    given = inputs(4, 3, 49, 32)

    def kernels(attend: object) -> set[str]:
        with torch.profiler.profile() as profile:
            attend(*given)  # type: ignore[operator]
        return {event.key for event in profile.key_averages()}

    def theirs(joint: Tensor, bias: Tensor) -> Tensor:
        query, key, value = joint.unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])

    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert fused in kernels(biased_attention)
    assert fused not in kernels(theirs), "PyTorch's own is fused now, with the bias's gradient: ours may go"
