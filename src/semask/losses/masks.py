"""The loss of mask classification: classes and masks of matched queries, after every layer, and the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.losses.comparison import DenseMaskLoss, PointMaskLoss
from semask.losses.matching import Matching, Targets, find_targets, match
from semask.losses.pixel import pixel_cross_entropy
from semask.recipes import MaskLossRecipe
from semask.structures import LossTerms, MaskLogits, Segmentation


class MaskTerms(NamedTuple):
    """Unweighted losses of l predictions: the last one's first, then the auxiliary ones in their order."""

    classes: Float[Tensor, " l"]
    masks: Float[Tensor, " l"]
    dice: Float[Tensor, " l"]


@dataclass(frozen=True)
class MaskClassificationLoss:
    """Losses of classes and masks of the queries that match the classes of each image, anew for every prediction.

    The cross-entropy of the semantic prior is added once, times `prior_weight`, divided as `normalize_by` says. With
    `ignored="excluded"` nothing depends on pixels without a label, nor on the queries of an image without any label.

    Source: MaskFormer (arXiv:2107.06278) §3.2, Mask2Former (arXiv:2112.01527) §3.3 and §4.1, SeMask §3.4.
    """

    recipe: MaskLossRecipe
    prior_weight: float = 0.4
    normalize_by: Literal["all", "valid"] = "valid"

    def __post_init__(self) -> None:
        """Refuse points that cannot be drawn."""
        recipe = self.recipe
        few = recipe.points is not None and recipe.points < 1
        if few or recipe.oversample_ratio < 1 or not 0 <= recipe.importance_sample_ratio <= 1:
            raise ValueError(
                "masks are compared at points ≥ 1 (None compares whole masks), with an oversample_ratio ≥ 1 and an "
                f"importance_sample_ratio in [0, 1]; got points {recipe.points}, oversample_ratio "
                f"{recipe.oversample_ratio}, importance_sample_ratio {recipe.importance_sample_ratio}"
            )

    def __call__(self, out: Segmentation, labels: Integer[Tensor, "b H W"]) -> LossTerms:
        """Return the terms for labels of the padded image."""
        assert isinstance(out.main, MaskLogits)
        terms = self.terms(out.main, labels)
        weighted = (
            self.recipe.class_weight * terms.classes
            + self.recipe.mask_weight * terms.masks
            + self.recipe.dice_weight * terms.dice
        )
        main = weighted.sum()
        if out.prior is None:
            prior = torch.zeros_like(main)
        else:
            prior = self.prior_weight * pixel_cross_entropy(
                out.prior.logits, labels, normalize_by=self.normalize_by, align_corners=out.prior.align_corners
            )
        return LossTerms(main + prior, main, prior, torch.zeros_like(main))

    def terms(self, out: MaskLogits, labels: Integer[Tensor, "b H W"]) -> MaskTerms:
        """Return the unweighted losses of every prediction, in float32, with two transfers from the device."""
        predictions = (out, *out.auxiliary)
        # bipartite matching between queries and the classes of each image
        targets = find_targets(labels, out.class_logits.shape[-1] - 1)
        count, queries = len(predictions), out.class_logits.shape[1]
        comparison: PointMaskLoss | DenseMaskLoss = (
            DenseMaskLoss(targets, self.recipe)
            if self.recipe.points is None
            else PointMaskLoss(targets, self.recipe, self.recipe.points, predictions=count, queries=queries)
        )
        costs = [comparison.costs(number, prediction) for number, prediction in enumerate(predictions)]
        matching = match(torch.stack(costs), targets)
        # losses of the matched pairs
        pixel, dice = comparison.losses(predictions, matching)
        # per target: the mean number over all workers, at least 1
        targets_count = torch.full((), float(sum(targets.counts)), device=labels.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(targets_count)
            targets_count = targets_count / dist.get_world_size()
        targets_count = targets_count.clamp(min=1)
        classes = self._class_losses(predictions, matching, targets)
        return MaskTerms(classes, pixel.sum(1) / targets_count, dice.sum(1) / targets_count)

    def _class_losses(
        self, predictions: Sequence[MaskLogits], matching: Matching, targets: Targets
    ) -> Float[Tensor, " l"]:
        """Return the weighted mean of the queries' cross-entropy; queries without a pair are of "no object"."""
        # the matched class, or "no object"
        logits = torch.stack([prediction.class_logits.float() for prediction in predictions])
        no_object = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:-1], no_object, device=logits.device)
        rows = torch.arange(len(predictions), device=logits.device)[:, None]
        wanted[rows, matching.images, matching.queries] = matching.classes
        weights = torch.where(wanted == no_object, self.recipe.no_object_weight, 1.0)
        if self.recipe.ignored == "excluded":
            labelled = torch.tensor(targets.counts, device=logits.device) > 0
            weights = weights * labelled[:, None]
        losses = F.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none") * weights
        total = weights.sum((1, 2))
        return losses.sum((1, 2)) / torch.where(total > 0, total, 1.0)
