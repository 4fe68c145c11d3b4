"""Points at which masks are compared: drawing, placing, sampling, and selecting the uncertain ones.

Points are (x, y) in [0, 1], from the image's left upper corner to its right lower one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.ops.bilinear import pixel_centres
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE


class Draws(NamedTuple):
    """Uniform random numbers in [0, 1) for l predictions: d per point.

    matching: shared by all masks of an image. candidates: for every pair, the points of which the most uncertain are
    selected. others: for every pair, the points that are used as they are.
    """

    matching: Float[Tensor, "l b p d"]
    candidates: Float[Tensor, "l m n d"]
    others: Float[Tensor, "l m r d"]


def draw(
    recipe: MaskLossRecipe, points: int, *, predictions: int, images: int, pairs: int, device: torch.device
) -> Draws:
    """Draw for all predictions at once, before the matching.

    The order is that of the authors' code, prediction by prediction, so equal seeds give equal points.
    """
    # The place of a point has two coordinates; a labelled pixel has one number.
    numbers = 2 if recipe.ignored == "background" else 1
    uncertain = int(recipe.importance_sample_ratio * points)
    shapes = ((images, points), (pairs, int(points * recipe.oversample_ratio)), (pairs, points - uncertain))
    draws = Draws(*(torch.empty(predictions, *shape, numbers, device=device) for shape in shapes))
    # prediction by prediction, for the authors' order
    for number in range(predictions):
        for part in draws:
            part[number].uniform_()
    return draws


class LabelledPixels:
    """The labelled pixels of every image, to draw points from."""

    def __init__(self, labels: Integer[Tensor, "b H W"]) -> None:
        height, width = labels.shape[-2:]
        labelled = (labels != IGNORE).flatten(1)
        self.counts = labelled.sum(-1)
        # The n-th labelled pixel goes to row n of the table, all others to one row behind the end.
        places = torch.where(labelled, labelled.cumsum(-1) - 1, height * width)[..., None].expand(-1, -1, 2)
        pixels = pixel_centres(height, width, device=labels.device)
        self.centres = pixels.new_zeros(len(labels), height * width + 1, 2).scatter_(
            1, places, pixels.expand_as(places)
        )

    def place(self, numbers: Float[Tensor, "m p 1"], images: Integer[Tensor, " m"]) -> Float[Tensor, "m p 2"]:
        """Return the centres of the pixels that numbers in [0, 1) select, each pixel of the image equally likely.

        In an image without labels that is its corner.
        """
        counts = self.counts[images][:, None]
        # Never the count itself: in float32 the product of a number below 1 does not round up to it.
        chosen = (numbers[..., 0] * counts).long()
        # rows of its image in the joint table
        rows = chosen + images[:, None] * self.centres.shape[1]
        return self.centres.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def sample_maps(maps: Float[Tensor, "m c h w"], points: Float[Tensor, "m p 2"]) -> Float[Tensor, "m c p"]:
    """Return the maps at the points, bilinear; 0 lies beyond the border."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode="bilinear", align_corners=False)[..., 0]


def sample_classes(
    labels: Integer[Tensor, "b H W"],
    points: Float[Tensor, "m p 2"],
    *,
    images: Integer[Tensor, " m"],
    classes: Integer[Tensor, "m t"],
) -> Float[Tensor, "m t p"]:
    """Return `sample_maps` of the binary masks of classes, without computing the masks.

    Row i of the points lies in image `images[i]`.
    """
    height, width = labels.shape[-2:]
    # pixel coordinates
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    # the four taps of every point
    shares = points.new_zeros(len(points), classes.shape[1], points.shape[1])
    for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            beyond = (column < 0) | (column >= width) | (row < 0) | (row >= height)
            weight = (across * down).masked_fill(beyond, 0)
            at = (row.long().clamp(0, height - 1), column.long().clamp(0, width - 1))
            shares += weight[:, None] * (labels[images[:, None], *at][:, None] == classes[..., None])
    return shares


@torch.no_grad()
def choose_points(
    masks: Float[Tensor, "m h w"],
    candidates: Float[Tensor, "m n 2"],
    others: Float[Tensor, "m r 2"],
    *,
    recipe: MaskLossRecipe,
    points: int,
) -> Float[Tensor, "m p 2"]:
    """Return the candidates whose logits are nearest to 0, then the others.

    Source: PointRend (arXiv:1912.08193) §3.1, as in Mask2Former.
    """
    # the most uncertain candidates, and all others
    logits = sample_maps(masks[:, None], candidates)[:, 0]
    nearest = (
        logits.abs().topk(int(recipe.importance_sample_ratio * points), dim=-1, largest=False, sorted=False).indices
    )
    return torch.cat((candidates.gather(1, nearest[..., None].expand(-1, -1, 2)), others), dim=1)
