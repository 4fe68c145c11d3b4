"""Queries that attend to a map and to each other."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semask.models.layers.attention import check_heads


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
        heads = (self._heads(self.query(query)), self._heads(self.key(key)), self._heads(self.value(value)))
        mask = None if visible is None else visible[:, None]
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=rate)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        heads: Tensor = tokens.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)


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
        if self.self_attention_first:
            queries = self._attend_to_each_other(queries, positions)
        # cross-attention to the map
        attended = self.cross_attention(queries + positions, key, value, visible)
        queries = self.cross_norm(queries + self.dropout(attended))
        if not self.self_attention_first:
            queries = self._attend_to_each_other(queries, positions)
        out: Tensor = self.mlp(queries)
        return out

    def _attend_to_each_other(self, queries: Tensor, positions: Tensor) -> Tensor:
        placed = queries + positions
        out: Tensor = self.self_norm(queries + self.dropout(self.self_attention(placed, placed, queries)))
        return out


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
        """Act on every token alone."""
        hidden = self.dropout(F.relu(self.fc1(tokens), inplace=True))
        out: Tensor = self.norm(tokens + self.dropout(self.fc2(hidden)))
        return out
