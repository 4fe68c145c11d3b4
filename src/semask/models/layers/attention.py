"""Multi-head attention: of tokens among themselves, of queries to a map, and their transformer layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from semask.ops.attention import attention, queries_keys_values

HEAD_WIDTH = 64
"""Width of a head in every Vision Transformer of the papers."""
TEMPERATURE = 10_000.0
"""Growth of the wavelengths of positions, from the shortest to the longest."""


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
        mixed = attention(query, key, value, dropout=rate)
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
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(tokens)))))


class CrossAttention(nn.Module):
    """Multi-head attention whose queries, keys and values come from different tokens."""

    def __init__(self, width: int, *, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        for linear in (self.query, self.key, self.value):
            # Xavier for the three as one matrix of 3d × d, as published.
            nn.init.xavier_uniform_(linear.weight, gain=0.5**0.5)
        nn.init.xavier_uniform_(self.project.weight)
        for linear in (self.query, self.key, self.value, self.project):
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b n d"],
        value: Float[Tensor, "b n d"],
        visible: Bool[Tensor, "b q n"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Return the attended values; a query attends to the tokens that are `visible` to it, at least one."""
        sides = (self.query(query), self.key(key), self.value(value))
        q, k, v = (side.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for side in sides)
        mask = None if visible is None else visible[:, None]
        mixed = attention(q, k, v, mask=mask, dropout=self.dropout if self.training else 0.0)
        return self.project(mixed.transpose(1, 2).flatten(2))


class QueryLayer(nn.Module):
    """Attention to a map, attention among the queries, and an MLP; each is added and then normalised.

    Self-attention comes first in MaskFormer (DETR's decoder), attention to the map in Mask2Former.
    """

    def __init__(
        self, width: int, *, num_heads: int, hidden: int, dropout: float = 0.0, self_attention_first: bool
    ) -> None:
        super().__init__()
        self.self_attention_first = self_attention_first
        self.cross_attention = CrossAttention(width, num_heads=num_heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = CrossAttention(width, num_heads=num_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.mlp = PostNormMLP(width, hidden, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        positions: Float[Tensor, "_b q d"],
        key: Float[Tensor, "b n d"],
        value: Float[Tensor, "b n d"],
        visible: Bool[Tensor, "b q n"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Return the queries after this layer; `positions` are added to queries and keys, not to values."""
        for to_itself in (self.self_attention_first, not self.self_attention_first):
            placed = queries + positions
            if to_itself:
                attended = self.self_attention(placed, placed, queries)
                queries = self.self_norm(queries + self.dropout(attended))
            else:
                # cross-attention to the map
                attended = self.cross_attention(placed, key, value, visible)
                queries = self.cross_norm(queries + self.dropout(attended))
        return self.mlp(queries)


class PostNormMLP(nn.Module):
    """Two linear layers with a ReLU between them, added to the input and normalised."""

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        hidden = self.dropout(F.relu(self.fc1(tokens), inplace=True))
        return self.norm(tokens + self.dropout(self.fc2(hidden)))


def sine_positions(like: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "1 n d"]:
    """Return the positions of a map's tokens, row by row: half of the channels for y, then half for x.

    Along an axis token i of n lies at 2π(i+1)/(n+10⁻⁶); even channels are sines, odd ones cosines, of wavelengths that
    grow geometrically up to 10000·2π.

    Source: DETR (arXiv:2005.12872), the normalised form, as in MaskFormer and Mask2Former.
    """
    if channels % 4:
        raise ValueError(f"positions need a width divisible by 4 (sine and cosine of y and x), got {channels}")
    half = channels // 2
    steps = torch.arange(half // 2, device=like.device, dtype=torch.float32)
    frequencies = TEMPERATURE ** (-2 * steps / half)
    # 2π(i+1)/(n+10⁻⁶) along each axis
    axes = []
    for size in like.shape[-2:]:
        index = torch.arange(size, device=like.device, dtype=torch.float32) + 1
        angles = (index / (size + 1e-6) * (2 * math.pi))[:, None] * frequencies
        axes.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1))  # n half
    # y and x of every token, row by row
    rows, columns = axes
    grid = (rows[:, None].expand(-1, columns.shape[0], -1), columns[None].expand(rows.shape[0], -1, -1))
    return torch.cat(grid, dim=-1).flatten(0, 1)[None].to(like.dtype)
