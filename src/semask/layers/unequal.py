"""Attention whose keys are of another width than its values, which PyTorch's fused kernels do not take."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from semask.autocast import without_autocast
from semask.plain import is_plain

BLOCK = 512
"""Queries that look at all keys at a time: their weights are the most that is in memory."""
KEPT = 2048
"""Queries up to which a backward pass finds the weights kept; of more they are made again, block by block."""


def attend(
    query: Float[Tensor, "*b q k"],
    key: Float[Tensor, "*b n k"],
    value: Float[Tensor, "*b n c"],
    *,
    mask: Bool[Tensor, "*_b q n"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "*b q c"]:
    """Return softmax(scale · query · key) · value; `mask` is True where to look.

    Memory grows with queries + keys, not with their product.
    """
    if is_plain() or torch.compiler.is_compiling() or query.shape[-1] == value.shape[-1]:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    if scale != 1:
        query = query * scale
    if mask is not None or query.shape[-2] <= BLOCK:
        return _weigh(query, key, value, mask)
    again = torch.is_grad_enabled() and query.shape[-2] > KEPT
    blocks = [
        checkpoint(_weigh, block, key, value, use_reentrant=False, preserve_rng_state=False)
        if again
        else _weigh(block, key, value)
        for block in query.split(BLOCK, dim=-2)
    ]
    return torch.cat(blocks, dim=-2)


def _weigh(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    precision = torch.promote_types(query.dtype, torch.float32)
    # As exact within as torch's function, whatever autocast chose.
    with without_autocast(query.device):
        scores = query.to(precision) @ key.to(precision).transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ value.to(precision)).to(value.dtype)
