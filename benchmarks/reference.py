"""The reference forms of whole models: the slow side of benchmarks.

semask's own are selected by its switch (`SEMASK_REFERENCE=1`): window attention that makes its bias and mask at every
call, semantic attention by two products and a softmax, deformable attention by `grid_sample`, label maps by
`interpolate` and `argmax` at full size, losses by `interpolate` and `cross_entropy`. Attention in other layers and in
timm's goes through torch's function, which the formula replaces here; Semantic FPN sums new maps, every one doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semask.models.decoders.semantic_fpn import SemanticFPN
from semask.ops.reference import reference_mode
from semask.ops.resize import resize
from semask.structures import Features, PixelLogits


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Softmax(q·k / √d + mask)·v as it is written in papers; boolean masks are true where attention is allowed."""
    assert not is_causal
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    # a rate of 0 would draw a mask and copy the weights
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def add_levels(self: SemanticFPN, features: Features) -> PixelLogits:
    """Semantic FPN with a new map for every doubling and every sum."""
    maps = features.maps if self.neck is None else self.neck(features.maps)
    total = self.branches[0](maps[0])
    for branch, level in zip(self.branches[1:], maps[1:], strict=True):
        total = total + resize(self.doubling(branch(level)), (total.shape[-2], total.shape[-1]))
    return PixelLogits(self.classify(self.dropout(total)))


@contextmanager
def reference_forms(choice: bool = True) -> Iterator[None]:
    """Run everything inside by the reference forms, or with False as usual; for models that are not compiled."""
    if not choice:
        yield
        return
    fused, in_place = F.scaled_dot_product_attention, SemanticFPN.forward
    F.scaled_dot_product_attention, SemanticFPN.forward = attention, add_levels
    try:
        with reference_mode():
            yield
    finally:
        F.scaled_dot_product_attention, SemanticFPN.forward = fused, in_place
