"""Resizing and padding of maps and images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from semask.ops.reference import is_reference


def size_of(x: Shaped[Tensor, "*b h w"]) -> tuple[int, int]:
    """Return the (height, width) of maps or images, channels first."""
    return x.shape[-2], x.shape[-1]


def resize(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False
) -> Float[Tensor, "b c H W"]:
    """Resize maps bilinearly to `size` (height, width); a map of that size is returned as it is."""
    if _are_equal(size_of(x), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners, antialias=antialias)


def _are_equal(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Compare two sizes; symbolic ones are equal only if they are for all images, so that one graph serves all."""
    if not torch.compiler.is_compiling():
        return size == tuple(other)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size[0] == other[0]) and statically_known_true(size[1] == other[1])


def sum_equal_sizes(maps: Iterable[Tensor]) -> Iterable[Tensor]:
    """Add up neighbouring maps of equal size, so that what follows, a linear step, runs once for their sum."""
    if is_reference():
        return maps
    sums: list[Tensor] = []
    for level in maps:
        if sums and _are_equal(size_of(sums[-1]), size_of(level)):
            sums[-1] = sums[-1] + level
        else:
            sums.append(level)
    return sums


def convolve_resized(
    conv: nn.Conv2d, levels: Sequence[Float[Tensor, "b _c _h _w"]], size: tuple[int, int]
) -> Float[Tensor, "b o h w"]:
    """Apply a 1×1 convolution without bias to maps that are resized to `size` and concatenated."""
    if is_reference():
        return conv(torch.cat([resize(level, size) for level in levels], dim=1))
    # Both steps are linear, so each level is convolved at its own grid and resized afterwards.
    total: Tensor | None = None
    # the columns of the weight that act on this level
    for level, weight in zip(levels, conv.weight.chunk(len(levels), dim=1), strict=True):
        part = resize(F.conv2d(level, weight), size)
        total = part if total is None else total + part
    assert total is not None
    return total


def pad_images(images: Float[Tensor, "b c h w"], bottom: int, right: int) -> Float[Tensor, "b c H W"]:
    """Pad images with zeros at the bottom and right [px]."""
    if not torch.compiler.is_compiling() and bottom == right == 0:
        return images  # padding by nothing would copy them
    return F.pad(images, (0, right, 0, bottom))


def to_float(image: UInt8[Tensor, "*b c H W"] | Float[Tensor, "*b c H W"]) -> Float[Tensor, "*b c H W"]:
    """Return bytes as float32 in [0, 1], contiguous channel by channel, and floats as they are."""
    return image.contiguous().float().div_(255.0) if image.dtype == torch.uint8 else image
