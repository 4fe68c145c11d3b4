"""Bringing the maps of a pyramid to the finest grid and adding them up."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semask.ops.resize import resize


def sum_semantic_maps(
    maps: Sequence[Float[Tensor, "b k _h _w"]], *, align_corners: bool = False
) -> Float[Tensor, "b k h w"]:
    """Add the semantic maps of all stages at the grid of the first, the semantic prior.

    Map i is doubled i times and then brought to the first map's size, which differs when sides are odd.

    Source: SeMask §3.3; the two steps as in the authors' code.
    """
    total = maps[0]
    size = (total.shape[-2], total.shape[-1])
    for level, semantic in enumerate(maps[1:], start=1):
        for _ in range(level):
            semantic = F.interpolate(semantic, scale_factor=2.0, mode="bilinear", align_corners=align_corners)  # noqa: PLW2901
        total = total + resize(semantic, size, align_corners=align_corners)
    return total
