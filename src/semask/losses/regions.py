"""Losses of whole regions, beside the cross-entropy of pixels: Dice, Tversky, Lovász-softmax, and the focal loss.

They take logits at a coarse grid, resize them to the labels, and need the probabilities of all classes there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.structures import IGNORE, PixelLogits

Pixels = Float[Tensor, "n k"]
Truth = Integer[Tensor, " n"]
TINY = 1e-7
RegionTerm = tuple[float, Callable[[Pixels, Truth], Float[Tensor, ""]]]
"""A weight, and a loss of probabilities n×k and classes n."""


def tversky(probabilities: Pixels, truth: Truth, *, alpha: float, beta: float) -> Float[Tensor, ""]:
    """1 - TP / (TP + α·FP + β·FN), over the pixels of a batch, averaged over the classes that its labels hold.

    α = β = ½ is the Dice loss, 1 - 2·TP / (2·TP + FP + FN).

    Source: Salehi et al. (arXiv:1706.05721) eq. 3; Dice: Milletari et al. (arXiv:1606.04797) §3.
    """
    is_class = F.one_hot(truth, probabilities.shape[1]).to(probabilities.dtype)
    hit = (probabilities * is_class).sum(0)
    wrong, missed = probabilities.sum(0) - hit, is_class.sum(0) - hit
    return _mean_of_present(1 - hit / (hit + alpha * wrong + beta * missed).clamp(min=TINY), truth)


def lovasz_softmax(probabilities: Pixels, truth: Truth) -> Float[Tensor, ""]:
    """Lovász extension of the Jaccard loss 1 - IoU, averaged over the classes that the labels hold.

    Source: Berman et al. (arXiv:1705.08790) §3.1 and alg. 1.
    """
    is_class = F.one_hot(truth, probabilities.shape[1]).to(probabilities.dtype)
    # errors in falling order, and the growth of the Jaccard loss with each
    errors, order = (is_class - probabilities).abs().sort(dim=0, descending=True)
    hits = is_class.gather(0, order)
    total = hits.sum(0)
    jaccard = 1 - (total - hits.cumsum(0)) / (total + (1 - hits).cumsum(0)).clamp(min=TINY)
    growth = jaccard.diff(dim=0, prepend=torch.zeros_like(jaccard[:1]))
    return _mean_of_present((errors * growth).sum(0), truth)


def focal(probabilities: Pixels, truth: Truth, *, gamma: float) -> Float[Tensor, ""]:
    """Mean of -(1 - p)^γ · log p, with p the probability of a pixel's class.

    Source: Lin et al. (arXiv:1708.02002) eq. 4, without α.
    """
    own = probabilities.gather(1, truth[:, None])[:, 0].clamp(min=TINY)
    return ((1 - own).clamp(min=TINY) ** gamma * -own.log()).mean()


def region_loss(
    prediction: PixelLogits,
    labels: Integer[Tensor, "b H W"],
    terms: Mapping[str, RegionTerm],
) -> Float[Tensor, ""]:
    """Weighted sum of losses, by their names, over the labelled pixels of a batch; 0 where there are none."""
    scores = prediction.scores((labels.shape[-2], labels.shape[-1]))
    labelled = labels != IGNORE
    if not labelled.any():
        return scores.sum() * 0
    probabilities = scores.softmax(dim=1).movedim(1, -1)[labelled]
    truth = labels[labelled].long()
    return torch.stack([weight * loss(probabilities, truth) for weight, loss in terms.values()]).sum()


def _mean_of_present(losses: Float[Tensor, " k"], truth: Truth) -> Float[Tensor, ""]:
    present = torch.bincount(truth, minlength=len(losses)) > 0
    return losses[present].mean()
