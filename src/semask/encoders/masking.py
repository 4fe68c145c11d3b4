"""Sending a map through what stands behind a stage: a semantic layer, or the probe it is compared with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def mask(layer: nn.Module, x: Float[Tensor, "b i h w"], priors: list[Tensor]) -> Float[Tensor, "b c h w"]:
    """Return the map as the layer leaves it; its semantic map, if it gives out one, joins the `priors`."""
    masked, prior = layer(x.permute(0, 2, 3, 1))
    if prior is not None:
        priors.append(prior.permute(0, 3, 1, 2))
    out: Tensor = masked.permute(0, 3, 1, 2)
    return out
