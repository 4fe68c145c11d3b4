"""Self-attention with a bias on its scores that is learned: fused forward, and in blocks backward.

PyTorch's fused kernel for processors gives no gradient of a bias: where one is asked for, PyTorch leaves the kernel for
separate steps, which keep queries, keys, values and the weights of all pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask.autocast import without_autocast
from semask.layers.attention import queries_keys_values

BLOCK_TOKENS = 2048
"""Tokens whose gradients are made at a time: the weights of all would not stay in the cache."""


def biased_attention(joint: Float[Tensor, "w n qkv"], bias: Float[Tensor, "heads n n"]) -> Float[Tensor, "w n c"]:
    """Attend within each of w sequences, on the processor: softmax(query · key / √d + bias) · value, head by head.

    `joint` holds queries, keys and values side by side, of c channels each, and `bias` is of its type. Where the bias
    is learned, both are kept for a backward pass, and nothing else: the weights are made again, and there is no second
    derivative.
    """
    if torch.is_grad_enabled() and bias.requires_grad:
        out: Tensor = _Biased.apply(joint, bias)
        return out
    return _attend(joint, bias)


def _attend(joint: Tensor, bias: Tensor) -> Tensor:
    query, key, value = queries_keys_values(joint, len(bias)).unbind(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None]).transpose(1, 2).flatten(2)


class _Biased(torch.autograd.Function):
    """The attended tokens, with gradients of both."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, bias: Tensor) -> Tensor:
        """Attend by the fused kernel."""
        ctx.save_for_backward(joint, bias)
        # Detached, for even here PyTorch chooses by whether the bias asks for a gradient.
        return _attend(joint.detach(), bias.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Make the weights again, block by block, in float32 at least."""
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
    sides = queries_keys_values(joint, heads).flatten(1, 2)  # of w·heads sequences, one after the other
    query, key, value = sides.unbind(0)
    above = slope.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
    scale = query.shape[-1] ** -0.5
    query = query * scale
    scores = torch.bmm(query, key.mT).unflatten(0, (-1, heads)).add_(bias)
    with torch.enable_grad():  # softmax's own gradient, which has no public name, is one pass over the weights
        weights = scores.requires_grad_().softmax(-1)
    (of_scores,) = torch.autograd.grad(weights, scores, torch.bmm(above, value.mT).view_as(weights))
    weights, products = weights.detach().flatten(0, 1), of_scores.flatten(0, 1)
    out = torch.empty_like(sides)
    torch.bmm(products, key, out=out[0]).mul_(scale)
    torch.bmm(products.mT, query, out=out[1])
    torch.bmm(weights.mT, above, out=out[2])
    return out.unflatten(1, (-1, heads)), of_scores.sum(0)
