"""Attention where PyTorch's fused kernels are slow or take it not as it is: other widths of values, a learned bias."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from semask.ops.device import without_autocast
from semask.ops.linear import by_onednn, is_plain, onednn_is_faster
from semask.ops.reference import runs_eagerly

BLOCK = 512
"""Queries that attend at a time: their weights are the most that memory holds."""
KEPT = 2048
"""Queries up to which the weights are kept for the backward pass; those of more are computed again, block by block."""
PRODUCTS = 2**22
"""Multiply-adds of one head from which two products of matrices are faster than PyTorch's fused kernel, with oneDNN."""
WEIGHTS = 2**19
"""Attention weights in memory at a time."""
BLOCK_TOKENS = 2048
"""Tokens whose gradients are computed at a time: the weights of all would not stay in the cache."""


def attention(
    query: Float[Tensor, "b heads q d"],
    key: Float[Tensor, "b heads n d"],
    value: Float[Tensor, "b heads n c"],
    *,
    mask: Bool[Tensor, "b _heads q n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads q c"]:
    """Return softmax(query · key / √d + mask) · value, its rows lying head by head as a projection reads them."""
    plain = is_plain(query) and mask is None and not dropout and not torch.is_grad_enabled()
    products = query.shape[-2] * key.shape[-2] * query.shape[-1]
    if not plain or products < PRODUCTS or query.dtype != torch.float32 or not onednn_is_faster():
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    # head by head, so that the weights of some queries are all that memory holds
    batch, heads, queries, width = query.shape
    out = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    most = max(1, WEIGHTS // key.shape[-2])
    for place in itertools.product(range(batch), range(heads)):
        keys, values = key[place] * width**-0.5, value[place].contiguous().t()
        for rows, above in zip(query[place].split(most), out[place].split(most), strict=True):
            weights = by_onednn(rows, keys, None)
            torch.softmax(weights, -1, out=weights)
            above.copy_(by_onednn(weights, values, None))
    return out


def sdpa_mixed_widths(
    query: Float[Tensor, "*b q k"],
    key: Float[Tensor, "*b n k"],
    value: Float[Tensor, "*b n c"],
    *,
    mask: Bool[Tensor, "*_b q n"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "*b q c"]:
    """Return softmax(scale · query · key) · value; `mask` is True where a query attends.

    Memory grows with queries + keys, not with their product.
    """
    if torch.compiler.is_exporting() and query.ndim == 3:
        # runtimes know queries of heads alone
        query, key, value = query[:, None], key[:, None], value[:, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)[:, 0]
    if not runs_eagerly() or query.shape[-1] == value.shape[-1]:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    if scale != 1:
        query = query * scale
    if mask is not None or query.shape[-2] <= BLOCK:
        return _weigh(query, key, value, mask)
    recompute = torch.is_grad_enabled() and query.shape[-2] > KEPT
    blocks = [
        checkpoint(_weigh, block, key, value, use_reentrant=False, preserve_rng_state=False)
        if recompute
        else _weigh(block, key, value)
        for block in query.split(BLOCK, dim=-2)
    ]
    return torch.cat(blocks, dim=-2)


def _weigh(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    precision = torch.promote_types(query.dtype, torch.float32)
    # As exact inside as torch's function, whatever autocast chose.
    with without_autocast(query.device):
        scores = query.to(precision) @ key.to(precision).transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ value.to(precision)).to(value.dtype)


def queries_keys_values(joint: Float[Tensor, "*b n qkv"], heads: int) -> Float[Tensor, "3 *b heads n d"]:
    """Split a joint projection, queries, keys and values side by side, each of all heads."""
    return joint.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-3, -2)


def biased_attention(joint: Float[Tensor, "w n qkv"], bias: Float[Tensor, "heads n n"]) -> Float[Tensor, "w n c"]:
    """Attend within each of w sequences on the CPU: softmax(query · key / √d + bias) · value, head by head.

    `joint` holds queries, keys and values side by side, of c channels each, and `bias` has its type. Where the bias is
    learned, the backward pass keeps these two alone: it computes the weights again. There is no second derivative.
    """
    if torch.is_grad_enabled() and bias.requires_grad:
        return _BiasedAttention.apply(joint, bias)
    return _attend(joint, bias)


def _attend(joint: Tensor, bias: Tensor) -> Tensor:
    query, key, value = queries_keys_values(joint, len(bias)).unbind(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None]).transpose(1, 2).flatten(2)


class _BiasedAttention(torch.autograd.Function):
    """Attention by the fused kernel, with gradients of the projection and of the bias."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(joint, bias)
        # Detached, since even here PyTorch chooses its kernel by whether the bias requires a gradient.
        return _attend(joint.detach(), bias.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the weights again, block by block, in float32 at least."""
        joint, bias = ctx.saved_tensors
        precision = torch.promote_types(joint.dtype, torch.float32)
        exact = bias.to(precision)
        of_joint, of_bias = torch.empty_like(joint), torch.zeros_like(exact)
        most = max(1, BLOCK_TOKENS // joint.shape[1])
        with without_autocast(joint.device):
            for block, above, place in zip(*(t.split(most) for t in (joint, slope, of_joint)), strict=True):
                of_sides, share = _gradients(block.to(precision), exact, above.to(precision))
                queries_keys_values(place, len(bias)).copy_(of_sides)
                of_bias += share
        return of_joint, of_bias.to(bias.dtype)


def _gradients(joint: Tensor, bias: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of queries, keys and values (3 × w × heads × n × d) and of the bias."""
    heads = len(bias)
    sides = queries_keys_values(joint, heads).flatten(1, 2)  # w·heads sequences, one after the other
    query, key, value = sides.unbind(0)
    above = slope.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
    scale = query.shape[-1] ** -0.5
    query = query * scale
    # the weights once more
    scores = torch.bmm(query, key.mT).unflatten(0, (-1, heads)).add_(bias)
    with torch.enable_grad():  # the gradient of softmax, which has no public name, is one pass over the weights
        weights = scores.requires_grad_().softmax(-1)
    (of_scores,) = torch.autograd.grad(weights, scores, torch.bmm(above, value.mT).view_as(weights))
    weights, products = weights.detach().flatten(0, 1), of_scores.flatten(0, 1)
    # gradients of queries, keys and values
    out = torch.empty_like(sides)
    torch.bmm(products, key, out=out[0]).mul_(scale)
    torch.bmm(products.mT, query, out=out[1])
    torch.bmm(weights.mT, above, out=out[2])
    return out.unflatten(1, (-1, heads)), of_scores.sum(0)
