"""Linear layers by oneDNN, forward and backward, beside exact products in float64."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.models.layers.linear import Linear, adopt_linear
from semask.ops import attention, linear
from semask.ops.memory import checkpoint_pointwise
from semask.ops.reference import reference_mode


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN takes layers of any size, whatever the processor; the sizes of those it took."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch has no oneDNN")
    taken: list[tuple[int, ...]] = []
    compute = linear.by_onednn

    def counted(x: Tensor, weight: Tensor, *others: object) -> Tensor:
        taken.append((*x.shape, len(weight)))
        return compute(x, weight, *others)

    monkeypatch.setattr(linear, "SMALLEST", 0)
    monkeypatch.setattr(attention, "PRODUCTS", 0)
    for module in (linear, attention):
        monkeypatch.setattr(module, "by_onednn", counted)
        monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    return taken


def close(found: Tensor, exact: Tensor) -> None:
    assert (found.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("shape", [(1,), (1, 1), (7,), (2, 13), (3, 5, 17), (0, 4)], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 96), (97, 31), (192, 576)])
@pytest.mark.parametrize("bias", [True, False])
def test_against_float64(
    onednn: list[tuple[int, ...]], shape: tuple[int, ...], inputs: int, outputs: int, bias: bool
) -> None:
    x, weight = torch.randn(*shape, inputs, requires_grad=True), torch.randn(outputs, inputs, requires_grad=True)
    given = [x, weight, *([torch.randn(outputs, requires_grad=True)] if bias else [])]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    out, expected = linear.linear(*given), F.linear(*exact)
    assert out.shape == expected.shape
    with torch.inference_mode():
        assert torch.equal(linear.linear(*given), out)
    if not out.numel():
        return
    close(out, expected)
    slope = torch.randn_like(out)
    gradients = torch.autograd.grad(out, given, slope), torch.autograd.grad(expected, exact, slope.double())
    for found, wanted in zip(*gradients, strict=True):
        close(found, wanted)
    # forward twice, both gradients once
    assert len(onednn) == 4


@pytest.mark.parametrize("layout", ["columns", "transposed", "rows"])
def test_weights_that_lie_otherwise(layout: str) -> None:
    x, large = torch.randn(33, 24), torch.randn(64, 48)
    weight = {"columns": large[:, :24], "transposed": large[:24].t(), "rows": large.view(128, 24)[5:69]}[layout]
    close(linear.linear(x, weight), F.linear(x.double(), weight.double()))
    moved = torch.randn(24, 5, 7).permute(1, 2, 0)
    close(linear.linear(moved, weight), F.linear(moved.double(), weight.double()))


def test_what_is_left_to_torch(onednn: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(8, 16), torch.randn(4, 16)
    for kind in (torch.bfloat16, torch.float64):
        assert torch.equal(linear.linear(x.to(kind), weight.to(kind)), F.linear(x.to(kind), weight.to(kind)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear.linear(x, weight), F.linear(x, weight))
    with reference_mode():
        assert torch.equal(linear.linear(x, weight), F.linear(x, weight))
    mapped = torch.vmap(partial(linear.linear, weight=weight))(x)
    torch.testing.assert_close(mapped, F.linear(x, weight))
    slopes = torch.func.grad(lambda each: linear.linear(x, each).square().sum())(weight)
    torch.testing.assert_close(slopes, 2 * F.linear(x, weight).t() @ x)
    assert not onednn


def test_second_derivatives() -> None:
    x, weight = (torch.randn(5, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True))
    found = []
    for layer in (linear.linear, F.linear):
        (first,) = torch.autograd.grad(layer(x, weight).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (x, weight)))
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-3)


def test_results_may_be_changed_in_place() -> None:
    x, weight = torch.randn(2, 3, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    changed = torch.autograd.grad(linear.linear(x, weight).relu_().sum(), (x, weight))
    expected = torch.autograd.grad(F.linear(x, weight).relu().sum(), (x, weight))
    torch.testing.assert_close(changed, expected)


def test_pointwise_layers_are_not_computed_twice(onednn: list[tuple[int, ...]]) -> None:
    """The backward pass makes the norm again and leaves the layer; it can be taken twice."""
    norm, layer = nn.LayerNorm(6), nn.Linear(6, 4)
    fast = copy.deepcopy(layer)
    adopt_linear(nn.ModuleList([fast]))
    assert type(fast) is Linear
    x = torch.randn(2, 3, 6, requires_grad=True)
    out = checkpoint_pointwise(lambda tokens: fast(norm(tokens)), x).square()
    expected = layer(norm(x)).square()
    torch.testing.assert_close(out, expected)
    assert len(onednn) == 1
    for turn in (1, 2):
        found = torch.autograd.grad(out.sum(), (x, fast.weight, fast.bias), retain_graph=turn == 1)
        wanted = torch.autograd.grad(expected.sum(), (x, layer.weight, layer.bias), retain_graph=turn == 1)
        for mine, torchs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)
        # of every turn, the gradients of input and weight alone
        assert len(onednn) == 1 + 2 * turn


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("queries", "keys", "width", "values"), [(1, 1, 4, 4), (37, 5, 8, 8), (64, 100, 16, 24)])
def test_attention(
    monkeypatch: pytest.MonkeyPatch, batch: int, queries: int, keys: int, width: int, values: int
) -> None:
    """Head by head and a few queries at a time, from tensors that lie as projections leave them."""
    monkeypatch.setattr(attention, "WEIGHTS", 10 * keys)
    sizes = ((queries, width), (keys, width), (keys, values))
    sides = [torch.randn(batch, count, 3, each).transpose(1, 2) for count, each in sizes]
    with torch.inference_mode():
        found = attention.attention(*sides)
    close(found, F.scaled_dot_product_attention(*(side.double() for side in sides)))
    assert found.transpose(1, 2).is_contiguous()
    mask = torch.rand(batch, 1, queries, keys) < 0.5
    mask[..., 0] = True
    with torch.no_grad():
        masked = attention.attention(*sides, mask=mask)
    close(masked, F.scaled_dot_product_attention(*(side.double() for side in sides), mask))
