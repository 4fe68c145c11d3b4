"""Bringing maps to another size."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False
) -> Float[Tensor, "b c H W"]:
    """Resize maps bilinearly to `size` (height, width); a map of that size stays as it is."""
    if (x.shape[-2], x.shape[-1]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners, antialias=antialias)
