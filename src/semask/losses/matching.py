"""Bipartite matching: the targets of a batch, the cost of every query as every target, and the best assignment.

Beside it, the losses of binary masks, whose parts the costs share: per pixel, and by overlap.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.ops.device import without_autocast
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE

INVALID_COST = 1e9
"""Cost of a pair whose cost is not finite; small enough that the others keep their digits beside it."""
FOCAL_ALPHA = 0.25
"""Weight of the inside of a mask in focal loss; the outside has 1 − α."""
MaskLoss = Literal["bce", "focal"]


class Targets(NamedTuple):
    """The classes present in each image of a batch; each is a binary mask, which remains in the label map.

    classes: ascending ids, on the labels' device; rows are filled up with 0. counts: how many of a row are targets, on
    the host.
    """

    labels: Integer[Tensor, "b H W"]
    classes: Integer[Tensor, "b t"]
    counts: tuple[int, ...]

    def pairs(self, queries: int) -> tuple[int, ...]:
        """Return the number of pairs in each image, whatever the costs."""
        return tuple(min(count, queries) for count in self.counts)

    def images_of_pairs(self, queries: int) -> Integer[Tensor, " m"]:
        images = np.repeat(np.arange(len(self.counts)), self.pairs(queries))
        return torch.from_numpy(images).to(self.labels.device)


class Matching(NamedTuple):
    """The m pairs of every one of l predictions, image by image, queries ascending."""

    images: Integer[Tensor, " m"]
    queries: Integer[Tensor, "l m"]
    classes: Integer[Tensor, "l m"]


def find_targets(labels: Integer[Tensor, "b H W"], num_classes: int) -> Targets:
    """Find the classes in each image of a batch, with one transfer to the host; `IGNORE` is none.

    Raises:
        ValueError: Labels are not class ids.
    """
    table = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device)
    present = table.scatter_(1, labels.flatten(1).long(), True)[:, :IGNORE].cpu().numpy()
    beyond = np.flatnonzero(present[:, num_classes:].any(axis=0)) + num_classes
    if beyond.size:
        raise ValueError(
            f"labels are class ids 0 … {num_classes - 1} or {IGNORE} (ignored), got {', '.join(map(str, beyond))}; "
            "build the model for more classes, or fix the labels"
        )
    # ascending ids, filled up with 0
    counts = present.sum(axis=1)
    classes = np.zeros((len(present), counts.max()), dtype=np.int64)
    for row, found in zip(classes, present, strict=True):
        row[: found.sum()] = np.flatnonzero(found)
    return Targets(labels, torch.from_numpy(classes).to(labels.device), tuple(counts.tolist()))


@torch.no_grad()
def pair_costs(
    class_logits: Float[Tensor, "b q k"],
    mask_logits: Float[Tensor, "b q n"],
    *,
    classes: Integer[Tensor, "b t"],
    masks: Float[Tensor, "b t n"],
    weights: Float[Tensor, "b n"],
    recipe: MaskLossRecipe,
) -> Float[Tensor, "b q t"]:
    """Return the cost of every query as every target, at n points or pixels, in float32.

    `masks` are the targets, in [0, 1] and 0 where `weights` is.

    Source: MaskFormer (arXiv:2107.06278) §3.2: the probability of the class instead of its logarithm.
    """
    with without_autocast(mask_logits.device):
        logits = mask_logits.float()
        # − probability of the target's class
        probabilities = class_logits.float().softmax(-1)
        class_cost = -probabilities.gather(2, classes[:, None].expand(-1, probabilities.shape[1], -1))
        # mean cost of the pixels: outside + t · more
        outside, more = pixel_costs(logits, recipe.mask_loss)
        sums = torch.einsum("bqn,bn->bq", outside, weights)[..., None] + torch.einsum("bqn,btn->bqt", more, masks)
        mask_cost = sums / weights.sum(-1).clamp(min=1)[:, None, None]
        # dice
        inside = logits.sigmoid()
        areas = torch.einsum("bqn,bn->bq", inside, weights)[..., None] + masks.sum(-1)[:, None]
        dice_cost = smooth_dice(torch.einsum("bqn,btn->bqt", inside, masks), areas)
        return recipe.class_weight * class_cost + recipe.mask_weight * mask_cost + recipe.dice_weight * dice_cost


def match(costs: Float[Tensor, "l b q t"], targets: Targets) -> Matching:
    """Return the cheapest one-to-one assignment for every prediction and image; costs go to the host in one transfer.

    Every target has a query, or every query a target when there are more targets. A cost that is not finite counts as
    a high one: the loss itself shows that the model diverged.
    """
    from scipy.optimize import linear_sum_assignment

    table = torch.nan_to_num(costs, nan=INVALID_COST, posinf=INVALID_COST, neginf=INVALID_COST).cpu().numpy()
    images = targets.images_of_pairs(costs.shape[2])
    pairs = np.empty((2, len(table), len(images)), dtype=np.int64)
    # Hungarian algorithm, image by image
    for prediction, batch in enumerate(table):
        assigned = [linear_sum_assignment(cost[:, :count]) for cost, count in zip(batch, targets.counts, strict=True)]
        pairs[:, prediction] = np.concatenate(assigned, axis=1)
    queries, columns = torch.from_numpy(pairs).to(costs.device)
    return Matching(images, queries, targets.classes[images, columns])


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
    outside = (1 - FOCAL_ALPHA) * inside_probability.square() * F.softplus(logits)
    inside = FOCAL_ALPHA * (1 - inside_probability).square() * F.softplus(-logits)
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
