"""Self-attention with a bias on its scores that is learned: fused forward, and in blocks backward.

PyTorch's fused kernel for processors gives no gradient of a bias: where one is asked for, PyTorch leaves the kernel for
separate steps, which keep queries, keys, values and the weights of all pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from semask.autocast import without_autocast

BLOCK_TOKENS = 2048
"""Tokens whose gradients are made at a time: their weights stay in the cache."""


def biased_attention(joint: Float[Tensor, "w n qkv"], bias: Float[Tensor, "heads n n"]) -> Float[Tensor, "w n c"]:
    """Attend within each of w sequences, on the processor: softmax(query · key / √d + bias) · value, head by head.

    `joint` holds queries, keys and values side by side, of c channels each, and `bias` is of its type. For a backward
    pass both are kept, and nothing else: the weights are made again. There is no second derivative.
    """
    out: Tensor = _Biased.apply(joint, bias)
    return out


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, joint: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(joint, bias)
        # Detached: the fused kernel is chosen by whether a gradient of the bias is asked for, here too.
        query, key, value = _heads(joint.detach(), len(bias)).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.detach()[None])
        return attended.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        joint, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        precision = torch.promote_types(joint.dtype, torch.float32)
        of_joint, of_bias = torch.empty_like(joint), torch.zeros_like(bias, dtype=precision)
        most = max(1, BLOCK_TOKENS // joint.shape[1])
        with without_autocast(joint.device):
            for block, above, out in zip(*(t.split(most) for t in (joint, gradient, of_joint)), strict=True):
                of_sides, of_scores = _gradients(block.to(precision), bias.to(precision), above.to(precision))
                _heads(out, len(bias)).copy_(of_sides)
                of_bias += of_scores
        return of_joint, of_bias.to(bias.dtype)


def _gradients(joint: Tensor, bias: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of queries, keys and values (3 × w × heads × n × d) and of the bias."""
    heads = len(bias)
    sides = _heads(joint, heads).flatten(1, 2)  # of w·heads sequences, one after the other
    query, key, value = sides.unbind(0)
    above = gradient.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
    scale = query.shape[-1] ** -0.5
    query = query * scale
    scores = torch.bmm(query, key.mT).unflatten(0, (-1, heads)).add_(bias)
    with torch.enable_grad():
        weights = scores.requires_grad_().softmax(-1)
    (of_scores,) = torch.autograd.grad(weights, scores, torch.bmm(above, value.mT).view_as(weights))
    weights, products = weights.detach().flatten(0, 1), of_scores.flatten(0, 1)
    out = torch.empty_like(sides)
    torch.bmm(products, key, out=out[0]).mul_(scale)
    torch.bmm(products.mT, query, out=out[1])
    torch.bmm(weights.mT, above, out=out[2])
    return out.unflatten(1, (-1, heads)), of_scores.sum(0)


def _heads(joint: Tensor, heads: int) -> Tensor:
    """Return queries, keys and values: 3 × w × heads × n × d."""
    sides: Tensor = joint.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return sides
