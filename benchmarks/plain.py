"""The plain formulations of whole models: what benchmarks compare the fast ones with.

semask's own are chosen by its switch (`SEMASK_PLAIN=1`): window attention that makes its bias and mask at every call,
semantic attention by two products and a softmax, deformable attention by `grid_sample`, label maps by `interpolate` and
`argmax` at full size, losses by `interpolate` and `cross_entropy`. Attention in other layers and in timm's goes through
torch's function, for which the formula is put here; so is Semantic FPN's sum of new maps, every one doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semask.models.decoders.semantic_fpn import SemanticFPN
from semask.ops.reference import plainly
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
    """Softmax(q·k / √d + mask)·v as it is written in papers; masks of truth values say where to look."""
    assert not is_causal
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ value


def add_levels(self: SemanticFPN, features: Features) -> PixelLogits:
    """Semantic FPN with a new map for every doubling and every sum."""
    maps = features.maps if self.neck is None else self.neck(features.maps)
    total = self.branches[0](maps[0])
    for branch, level in zip(self.branches[1:], maps[1:], strict=True):
        total = total + resize(self.doubling(branch(level)), (total.shape[-2], total.shape[-1]))
    return PixelLogits(self.classify(self.dropout(total)))


@contextmanager
def plain_formulations() -> Iterator[None]:
    """Run everything inside plainly; for models that are not compiled."""
    fused, in_place = F.scaled_dot_product_attention, SemanticFPN.forward
    F.scaled_dot_product_attention, SemanticFPN.forward = attention, add_levels
    try:
        with plainly():
            yield
    finally:
        F.scaled_dot_product_attention, SemanticFPN.forward = fused, in_place


def chosen(plain: bool) -> Any:
    return plain_formulations() if plain else nullcontext()
