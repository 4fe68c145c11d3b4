"""Multi-head self-attention and the pre-norm transformer block."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from semask.ops.attention import queries_keys_values

HEAD_WIDTH = 64
"""Width of a head in every Vision Transformer of the papers."""


def check_heads(width: int, num_heads: int) -> None:
    """Refuse a width that attention heads cannot share."""
    if width % num_heads:
        raise ValueError(f"{num_heads} heads cannot share a width of {width}; give a width divisible by {num_heads}")


class SelfAttention(nn.Module):
    """Scaled dot-product attention of tokens among themselves; `num_heads` divides `width`.

    Dropout acts on the attention weights and on the output.
    """

    def __init__(self, width: int, *, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        query, key, value = queries_keys_values(self.qkv(tokens), self.num_heads)
        # softmax(QKᵀ / √d)V
        rate = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))

    def weights(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n n"]:
        """Return the attention of every token (rows, each of sum 1) to every token."""
        query, key, _ = queries_keys_values(self.qkv(tokens), self.num_heads)
        scaled = query * query.shape[-1] ** -0.5
        return (scaled @ key.transpose(-2, -1)).softmax(-1)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP four times as wide, each added to its input.

    `drop_path` is the rate at which a sample skips a branch in training.

    Source: Segmenter (arXiv:2105.05633) eq. 2-3; dropout in attention and MLP from the authors' code.
    """

    def __init__(self, width: int, *, num_heads: int, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, num_heads=num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width, dropout=dropout)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        # eq. 2: attention; eq. 3: MLP
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, dropout after each."""

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))
