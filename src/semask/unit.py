"""Pictures of bytes as floats in [0, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_unit(picture: UInt8[Tensor, "*b c H W"] | Float[Tensor, "*b c H W"]) -> Float[Tensor, "*b c H W"]:
    """Return bytes as float32 in [0, 1], channel by channel in memory, and floats as they are."""
    return picture.contiguous().float().div_(255.0) if picture.dtype == torch.uint8 else picture
