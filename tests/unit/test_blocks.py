"""Convolution blocks: which maps they read channel by channel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from semask.models.layers.blocks import ConvGroupNorm, ConvNormAct
from semask.ops import memory
from semask.ops.memory import to_nchw
from semask.ops.reference import reference_mode

DENSE, POINTWISE = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
DEPTHWISE = nn.Conv2d(8, 8, 3, padding=1, groups=8)


def channels_last(size: int) -> torch.Tensor:
    return torch.randn(2, size, size, 8).permute(0, 3, 1, 2)


def test_large_maps_under_dense_kernels_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGE", 2 * 8 * 16 * 16)
    x = channels_last(16)
    assert to_nchw(x, DENSE).is_contiguous()
    assert torch.equal(to_nchw(x, DENSE), x)
    assert to_nchw(x, POINTWISE) is x
    assert to_nchw(x, DEPTHWISE) is x
    assert to_nchw(channels_last(15), DENSE).is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert to_nchw(x, DENSE) is x
    frozen = copy.deepcopy(DENSE).requires_grad_(False)
    assert to_nchw(x, frozen) is x
    elsewhere = x.to("meta")
    assert to_nchw(elsewhere, DENSE) is elsewhere
    with reference_mode():
        assert to_nchw(x, DENSE) is x
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert to_nchw(x, DENSE) is x


@pytest.mark.parametrize("block", [ConvNormAct(32, 64), ConvGroupNorm(32, 64, kernel_size=3, relu=True)])
def test_results_stay_what_they_are(monkeypatch: pytest.MonkeyPatch, block: nn.Module) -> None:
    x = torch.randn(2, 9, 11, 32, requires_grad=True)
    found = []
    for large in (1, 2**40):
        monkeypatch.setattr(memory, "LARGE", large)
        out = block(x.permute(0, 3, 1, 2))
        assert out.is_contiguous() == (large == 1)
        found.append((out, *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))))
    for planes, last in zip(*found, strict=True):
        torch.testing.assert_close(planes, last, rtol=1e-4, atol=1e-4)
