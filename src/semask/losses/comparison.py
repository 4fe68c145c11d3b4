"""Two ways to compare predicted masks with the label map: at random points, and pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from semask.losses.binary import dice_loss, mean_pixel_loss
from semask.losses.matching import Matching, Targets, pair_costs
from semask.losses.points import LabelledPixels, choose_points, draw, sample_classes, sample_maps
from semask.ops.resize import resize, size_of
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE, MaskLogits

PairLosses = tuple[Float[Tensor, "l m"], Float[Tensor, "l m"]]
"""The pixel loss and the dice loss of every pair of every prediction."""


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
        """Return the cost of every pair of prediction `number`."""
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
        """Return the losses of all pairs."""
        # matched masks, and the points where each is compared
        matched = [_matched(prediction, matching, number) for number, prediction in enumerate(predictions)]
        chosen = [self._choose(masks, matching, number) for number, masks in enumerate(matched)]
        points, targets = (torch.cat(part) for part in zip(*chosen, strict=True))
        # all predictions at once
        logits = sample_maps(torch.cat(matched)[:, None], points)[:, 0]
        weights = _ones(logits)
        pixel = mean_pixel_loss(logits, targets, weights, self.recipe.mask_loss)
        shape = matching.queries.shape
        return pixel.reshape(shape), dice_loss(logits, targets, weights).reshape(shape)

    @torch.no_grad()
    def _choose(
        self, masks: Float[Tensor, "m h w"], matching: Matching, number: int
    ) -> tuple[Float[Tensor, "m p 2"], Float[Tensor, "m p"]]:
        """Return the points of every pair of one prediction, and the share of the target's class there."""
        images = matching.images
        points = choose_points(
            masks,
            self._place(self.draws.candidates[number], images),
            self._place(self.draws.others[number], images),
            recipe=self.recipe,
            points=self.points,
        )
        classes = matching.classes[number, :, None]
        return points, sample_classes(self.targets.labels, points, images=images, classes=classes)[:, 0]

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
        """Return the losses of all pairs."""
        pairs = [
            # Masks of full size are computed again in the backward pass: kept, they would be most of a step's memory.
            checkpoint(
                self._compare,
                _matched(prediction, matching, number),
                matching.images,
                matching.classes[number],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for number, prediction in enumerate(predictions)
        ]
        pixel, dice = (torch.stack(part) for part in zip(*pairs, strict=True))
        return pixel, dice

    def _compare(
        self, masks: Float[Tensor, "m h w"], images: Integer[Tensor, " m"], classes: Integer[Tensor, " m"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        labels = self.targets.labels
        logits = resize(masks[:, None], size_of(labels)).flatten(1)
        # binary targets of the matched classes
        own = labels.flatten(1)[images]
        targets = (own == classes[:, None]).float()
        weights = self._weights(own)
        return mean_pixel_loss(logits, targets, weights, self.recipe.mask_loss), dice_loss(logits, targets, weights)

    def _weights(self, labels: Tensor) -> Tensor:
        counted = labels != IGNORE if self.recipe.ignored == "excluded" else torch.ones_like(labels)
        return counted.float()


def _matched(prediction: MaskLogits, matching: Matching, number: int) -> Float[Tensor, "m h w"]:
    return prediction.mask_logits[matching.images, matching.queries[number]].float()


def _ones(like: Tensor) -> Tensor:
    """Return ones of that shape, in the memory of a single one."""
    return like.new_ones(()).expand(like.shape)
