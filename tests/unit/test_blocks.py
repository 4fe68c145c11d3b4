"""Convolution blocks: which maps they read channel by channel."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semask.models.layers.blocks import ConvGroupNorm, ConvNormAct
from semask.ops import memory
from semask.ops.memory import to_nchw
from semask.ops.reference import reference_mode
from semask.ops.resize import concatenate_resized

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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_side_by_side(layout: torch.memory_format) -> None:
    """Without gradients they are asked for one after the other, each when the one before has been written."""
    maps = [torch.randn(2, count, *size).contiguous(memory_format=layout) for count, size in ((3, (5, 7)), (4, (9, 2)))]
    expected = torch.cat([F.interpolate(each, (6, 8), mode="bilinear") for each in maps], dim=1)
    alive: list[weakref.ref[torch.Tensor]] = []

    def made() -> Iterator[torch.Tensor]:
        for each in maps:
            assert not any(reference() is not None for reference in alive[:-1])
            copied = each.clone()
            alive.append(weakref.ref(copied))
            yield copied
            del copied

    with torch.inference_mode():
        found = concatenate_resized(made(), (6, 8), channels=7)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    with_gradient = [each.clone().requires_grad_() for each in maps]
    concatenate_resized(iter(with_gradient), (6, 8), channels=7).sum().backward()
    assert all(each.grad is not None for each in with_gradient)
