"""Convolutions on the CPU by oneDNN's own function: weights in its layout, maps channels last, activations within."""

from __future__ import annotations

import platform
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.linear import NO_ACTIVATION, Activation


class Packed(NamedTuple):
    """A convolution's weight in oneDNN's layout, its bias, and what else the operation takes."""

    weight: Tensor
    bias: Tensor | None
    geometry: tuple[list[int], list[int], list[int], int]


@cache
def packs() -> bool:
    """Whether torch has oneDNN's convolution on this CPU, as x86's wheels do."""
    known = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    return known and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")


def pack(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Packed:
    """Return a convolution of this weight and bias in the layout that suits maps of `size` (b, i, h, w)."""
    padding = [int(step) for step in conv.padding]
    geometry = padding, [*conv.stride], [*conv.dilation], conv.groups
    return Packed(torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, [*size]), bias, geometry)


def convolve(
    x: Float[Tensor, "b i h w"], packed: Packed, activation: Activation = NO_ACTIVATION
) -> Float[Tensor, "b o _h _w"]:
    """Return activation(convolution(x) + bias), channels last; x is brought to that layout."""
    name, numbers, variant = activation
    # packed weights are many times slower under the other layout
    x = x.contiguous(memory_format=torch.channels_last)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed.weight, packed.bias, *packed.geometry, name, [*numbers], variant
    )
    return out


def pad_channels_last(x: Float[Tensor, "b i h w"], borders: tuple[int, int, int, int]) -> Float[Tensor, "b i _h _w"]:
    """Return a map with zeros at the left, right, top and bottom, channels last; nothing is written twice."""
    left, right, top, bottom = borders
    batch, channels, height, width = x.shape
    size = (batch, channels, top + height + bottom, left + width + right)
    out = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    for border in (out[:, :, :top], out[:, :, top + height :], out[..., :left], out[..., left + width :]):
        border.zero_()
    out[:, :, top : top + height, left : left + width] = x
    return out
