"""Bringing maps to another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def resize(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False
) -> Float[Tensor, "b c H W"]:
    """Resize maps bilinearly to `size` (height, width); a map of that size stays as it is."""
    if are_equal((x.shape[-2], x.shape[-1]), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners, antialias=antialias)


def are_equal(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Say whether two sizes are the same; of symbolic ones, whether they are for all images: one graph is for all."""
    if not torch.compiler.is_compiling():
        return size == tuple(other)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size[0] == other[0]) and statically_known_true(size[1] == other[1])


def as_unit(picture: UInt8[Tensor, "*b c H W"] | Float[Tensor, "*b c H W"]) -> Float[Tensor, "*b c H W"]:
    """Return bytes as float32 in [0, 1], channel by channel in memory, and floats as they are."""
    return picture.contiguous().float().div_(255.0) if picture.dtype == torch.uint8 else picture
