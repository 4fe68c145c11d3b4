"""The loss of mask classification: classes and masks of matched queries, after every layer, and the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from semask.losses.matching import Matching, Targets, dice_loss, find_targets, match, mean_pixel_loss, pair_costs
from semask.losses.pixel import pixel_cross_entropy
from semask.losses.points import LabelledPixels, choose_points, draw, sample_classes, sample_maps
from semask.ops.resize import resize, size_of
from semask.recipes import MaskLossRecipe
from semask.recipes.bounds import check_numbers
from semask.structures import IGNORE, LossTerms, MaskLogits, Segmentation

PairLosses = tuple[Float[Tensor, "l m"], Float[Tensor, "l m"]]
"""The pixel loss and the dice loss of every pair of every prediction."""


class MaskTerms(NamedTuple):
    """Unweighted losses of l predictions: the last one's first, then the auxiliary ones in their order."""

    classes: Float[Tensor, " l"]
    masks: Float[Tensor, " l"]
    dice: Float[Tensor, " l"]


@dataclass(frozen=True)
class MaskClassificationLoss:
    """Losses of classes and masks of the queries that match the classes of each image, anew for every prediction.

    The cross-entropy of the semantic prior is added once, times `prior_weight`, divided by `normalize_by`. With
    `ignored="excluded"` nothing depends on pixels without a label, nor on the queries of an image without any label.

    Source: MaskFormer (arXiv:2107.06278) §3.2, Mask2Former (arXiv:2112.01527) §3.3 and §4.1, SeMask §3.4.
    """

    recipe: MaskLossRecipe
    prior_weight: float = 0.4
    normalize_by: Literal["all", "valid"] = "valid"

    def __post_init__(self) -> None:
        check_numbers(self.recipe, "loss.masks")

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
        comparison: PointMaskLoss | DenseMaskLoss = DenseMaskLoss(targets, self.recipe)
        if self.recipe.points is not None:
            sizes = {"predictions": len(predictions), "queries": out.class_logits.shape[1]}
            comparison = PointMaskLoss(targets, self.recipe, self.recipe.points, **sizes)
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


class PointMaskLoss:
    """Comparison at points: random ones for the costs, uncertain and random ones for the losses.

    With `ignored="excluded"` points are centres of labelled pixels, so that no ignored pixel contributes to a point.

    Source: Mask2Former (arXiv:2112.01527) §3.3.
    """

    def __init__(
        self, targets: Targets, recipe: MaskLossRecipe, points: int, *, predictions: int, queries: int
    ) -> None:
        """Draw all random numbers for that many predictions."""
        self.targets = targets
        self.recipe = recipe
        self.points = points
        self.labelled = LabelledPixels(targets.labels) if recipe.ignored == "excluded" else None
        self.draws = draw(
            recipe,
            points,
            predictions=predictions,
            images=len(targets.counts),
            pairs=sum(targets.pairs(queries)),
            device=targets.labels.device,
        )

    def costs(self, number: int, prediction: MaskLogits) -> Float[Tensor, "b q t"]:
        labels, classes = self.targets.labels, self.targets.classes
        images = torch.arange(len(labels), device=labels.device)
        # one set of points for all masks of an image
        points = self._place(self.draws.matching[number], images)
        logits = sample_maps(prediction.mask_logits.detach().float(), points)
        return pair_costs(
            prediction.class_logits,
            logits,
            classes=classes,
            masks=sample_classes(labels, points, images=images, classes=classes),
            weights=_ones(logits[:, 0]),
            recipe=self.recipe,
        )

    def losses(self, predictions: Sequence[MaskLogits], matching: Matching) -> PairLosses:
        # matched masks, and the points where each is compared
        matched = [_matched(prediction, matching, number) for number, prediction in enumerate(predictions)]
        images, labels = matching.images, self.targets.labels
        chosen = []
        with torch.no_grad():
            for number, masks in enumerate(matched):
                candidates, others = (part[number] for part in (self.draws.candidates, self.draws.others))
                placed = (self._place(numbers, images) for numbers in (candidates, others))
                points = choose_points(masks, *placed, recipe=self.recipe, points=self.points)
                classes = matching.classes[number, :, None]
                chosen.append((points, sample_classes(labels, points, images=images, classes=classes)[:, 0]))
        points, targets = (torch.cat(part) for part in zip(*chosen, strict=True))
        # all predictions at once
        logits = sample_maps(torch.cat(matched)[:, None], points)[:, 0]
        weights = _ones(logits)
        pixel = mean_pixel_loss(logits, targets, weights, self.recipe.mask_loss)
        shape = matching.queries.shape
        return pixel.reshape(shape), dice_loss(logits, targets, weights).reshape(shape)

    def _place(self, numbers: Float[Tensor, "m p d"], images: Integer[Tensor, " m"]) -> Float[Tensor, "m p 2"]:
        return numbers if self.labelled is None else self.labelled.place(numbers, images)


class DenseMaskLoss:
    """Comparison of all pixels: costs at the prediction's size, labels resized to nearest; losses at the labels' size.

    Source: MaskFormer (arXiv:2107.06278) §3.2.
    """

    def __init__(self, targets: Targets, recipe: MaskLossRecipe) -> None:
        self.targets = targets
        self.recipe = recipe

    def costs(self, number: int, prediction: MaskLogits) -> Float[Tensor, "b q t"]:
        """Return the cost of every pair, whatever the prediction's `number`."""
        size = prediction.mask_logits.shape[-2:]
        labels = F.interpolate(self.targets.labels[:, None].float(), size=size, mode="nearest").flatten(1)
        return pair_costs(
            prediction.class_logits,
            prediction.mask_logits.detach().flatten(2),
            classes=self.targets.classes,
            masks=(labels[:, None] == self.targets.classes[..., None]).float(),
            weights=self._weights(labels),
            recipe=self.recipe,
        )

    def losses(self, predictions: Sequence[MaskLogits], matching: Matching) -> PairLosses:
        # Masks of full size are computed again in the backward pass: kept, they would be most of a step's memory.
        again = partial(checkpoint, self._compare, use_reentrant=False, preserve_rng_state=False)
        pairs = [
            again(_matched(prediction, matching, number), matching.images, matching.classes[number])
            for number, prediction in enumerate(predictions)
        ]
        pixel, dice = (torch.stack(part) for part in zip(*pairs, strict=True))
        return pixel, dice

    def _compare(
        self, masks: Float[Tensor, "m h w"], images: Integer[Tensor, " m"], classes: Integer[Tensor, " m"]
    ) -> tuple[Tensor, Tensor]:
        """Return both losses of every mask against the binary target of its class."""
        logits = resize(masks[:, None], size_of(self.targets.labels)).flatten(1)
        own = self.targets.labels.flatten(1)[images]
        parts = logits, (own == classes[:, None]).float(), self._weights(own)
        return mean_pixel_loss(*parts, self.recipe.mask_loss), dice_loss(*parts)

    def _weights(self, labels: Tensor) -> Tensor:
        counted = labels != IGNORE if self.recipe.ignored == "excluded" else torch.ones_like(labels)
        return counted.float()


def _matched(prediction: MaskLogits, matching: Matching, number: int) -> Float[Tensor, "m h w"]:
    return prediction.mask_logits[matching.images, matching.queries[number]].float()


def _ones(like: Tensor) -> Tensor:
    """Return ones of that shape, in the memory of a single one."""
    return like.new_ones(()).expand(like.shape)
