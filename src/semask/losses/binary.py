"""Losses of binary masks: per pixel, and by overlap."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MaskLoss = Literal["bce", "focal"]

_FOCAL_ALPHA = 0.25
"""Weight of the inside of a mask; the outside has 1 − α."""


def pixel_costs(
    logits: Float[Tensor, "*batch n"], kind: MaskLoss
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Return the cost of a pixel outside of the target, and the additional cost inside.

    A pixel of which the share t lies inside costs outside + t·more, so that every mask is compared with every target
    by one product of matrices.

    Source: focal loss with α = 0.25, γ = 2: RetinaNet (arXiv:1708.02002) eq. 5, as in MaskFormer.
    """
    if kind == "bce":
        return F.softplus(logits), -logits
    # focal loss: cross-entropy times (1 − p)^γ
    inside_probability = logits.sigmoid()
    outside = (1 - _FOCAL_ALPHA) * inside_probability.square() * F.softplus(logits)
    inside = _FOCAL_ALPHA * (1 - inside_probability).square() * F.softplus(-logits)
    return outside, inside - outside


def mean_pixel_loss(
    logits: Float[Tensor, "m n"], targets: Float[Tensor, "m n"], weights: Float[Tensor, "m n"], kind: MaskLoss
) -> Float[Tensor, " m"]:
    """Return the weighted mean over the pixels of every mask; 0 for a mask whose weights are all 0.

    `targets` lie in [0, 1].
    """
    outside, more = pixel_costs(logits, kind)
    return ((outside + targets * more) * weights).sum(-1) / weights.sum(-1).clamp(min=1)


def dice_loss(
    logits: Float[Tensor, "m n"], targets: Float[Tensor, "m n"], weights: Float[Tensor, "m n"]
) -> Float[Tensor, " m"]:
    """Return 1 − (2·overlap + 1) / (both areas + 1) of every mask, pixels counted by their weights.

    Source: MaskFormer's code; without squares, smoothed by 1.
    """
    probabilities = logits.sigmoid() * weights
    overlap = (probabilities * targets).sum(-1)
    return smooth_dice(overlap, probabilities.sum(-1) + (targets * weights).sum(-1))


def smooth_dice(overlap: Float[Tensor, "*batch"], areas: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the dice loss of masks from their overlap and the sum of their areas [pixels]."""
    return 1 - (2 * overlap + 1) / (areas + 1)
