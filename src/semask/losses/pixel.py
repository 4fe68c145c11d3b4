"""Per-pixel cross-entropy of logits at a coarse grid against labels at full size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from semask.losses.regions import RegionTerm, region_loss
from semask.ops.cross_entropy import pixel_losses, resized_cross_entropy
from semask.structures import IGNORE, LossTerms, PixelLogits, Segmentation


def pixel_cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b H W"],
    *,
    normalize_by: Literal["all", "valid"] = "all",
    keep_hardest: int | None = None,
    class_weights: Float[Tensor, " k"] | None = None,
    align_corners: bool = False,
) -> Float[Tensor, ""]:
    """Resize the logits bilinearly to the labels and return their cross-entropy; pixels labelled `IGNORE` add nothing.

    The sum is divided by all pixels, ignored ones included ("all"), or by the labelled ones ("valid"; 0 when there are
    none). `keep_hardest` keeps that many labelled pixels per image of the batch, those of the largest loss over the
    whole batch (OHEM); the denominator stays. `class_weights` weigh pixels by their true class, over their mean on the
    labelled pixels: their scale has no effect, and with "valid" the result is torch's weighted mean.

    Source: SeMask (arXiv:2112.12782) eq. 3-4; denominator and OHEM as in the authors' code (mmsegmentation).
    """
    valid = labels != IGNORE
    count = labels.numel() if normalize_by == "all" else valid.sum().clamp(min=1)
    weights = valid.float() if class_weights is None else relative_weights(labels, class_weights)
    logits = logits.float()  # whatever autocast chose
    if keep_hardest is not None:
        # online hard example mining
        losses = pixel_losses(logits, labels, align_corners=align_corners) * weights
        weights = weights * hardest(losses, valid, keep_hardest * labels.shape[0])
    return resized_cross_entropy(logits, labels, weights, align_corners=align_corners) / count


def relative_weights(labels: Integer[Tensor, "b H W"], class_weights: Float[Tensor, " k"]) -> Float[Tensor, "b H W"]:
    """Return the weight of every pixel's class over the mean of the labelled pixels; 0 where there is no label."""
    table = F.pad(class_weights, (0, IGNORE + 1 - len(class_weights)))
    weights = table[labels.long()]
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny) * (labels != IGNORE).sum()


def hardest(losses: Float[Tensor, "b H W"], valid: Tensor, keep: int) -> Float[Tensor, "b H W"]:
    """Return 1 at the `keep` labelled pixels of the largest loss and 0 elsewhere."""
    # ignored pixels rank last
    ranked = losses.masked_fill(~valid, -torch.inf).flatten()
    chosen = torch.zeros_like(losses).flatten()
    chosen[ranked.topk(min(keep, ranked.numel())).indices] = 1.0
    return chosen.reshape(losses.shape) * valid


@dataclass(frozen=True)
class SegmentationLoss:
    """Cross-entropy of the main prediction plus α times that of the semantic prior and of every earlier prediction.

    `regions` are weighted losses of `semask.losses.regions` on the main prediction, beside `cross_entropy` times its
    cross-entropy. OHEM acts on the main cross-entropy only.

    Source: SeMask eq. 5, α = `prior_weight` = 0.4; auxiliary heads as in PSPNet (arXiv:1612.01105) §3.3.
    """

    prior_weight: float = 0.4
    normalize_by: Literal["all", "valid"] = "all"
    ohem_pixels: int | None = None
    auxiliary_weight: float = 0.4
    class_weights: tuple[float, ...] | None = None
    cross_entropy: float = 1.0
    regions: Mapping[str, RegionTerm] = field(default_factory=dict)

    def __call__(self, out: Segmentation, labels: Integer[Tensor, "b H W"]) -> LossTerms:
        """Return the terms for logits at the decoder's grid and labels of the (padded) image."""
        assert isinstance(out.main, PixelLogits)
        weights = None
        if self.class_weights is not None:  # copied without waiting for the device
            weights = torch.tensor(self.class_weights).to(labels.device, non_blocking=True)
        # eq. 5: main loss + α · prior loss
        main = self.cross_entropy * pixel_cross_entropy(
            out.main.logits,
            labels,
            normalize_by=self.normalize_by,
            keep_hardest=self.ohem_pixels,
            class_weights=weights,
            align_corners=out.main.align_corners,
        )
        if self.regions:
            main = main + region_loss(out.main, labels, self.regions)
        prior = self._weighed(self.prior_weight, () if out.prior is None else (out.prior,), labels)
        auxiliary = self._weighed(self.auxiliary_weight, out.main.auxiliary, labels)
        return LossTerms(main + prior + auxiliary, main, prior, auxiliary)

    def _weighed(self, weight: float, predictions: Sequence[PixelLogits], labels: Tensor) -> Float[Tensor, ""]:
        losses = [
            pixel_cross_entropy(p.logits, labels, normalize_by=self.normalize_by, align_corners=p.align_corners)
            for p in predictions
        ]
        return weight * torch.stack(losses).sum() if losses else torch.zeros((), device=labels.device)
