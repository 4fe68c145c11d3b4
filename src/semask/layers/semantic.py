"""The semantic layer: attention through class maps, placed after each stage of a hierarchical backbone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.layers.windows import join_windows, pad_to_windows, split_windows


class SemanticAttention(nn.Module):
    """Attend between tokens that belong to the same classes.

    The query projection is the semantic map itself: K class scores per token, supervised by the labels. The softmax
    over query · key is neither scaled nor biased, and λ (`gain`) weighs what is added to the tokens.

    Source: SeMask (arXiv:2112.12782) §3.1, eq. 1-2.
    Differs: dropout 0.1 after the projection is in the authors' code only.
    """

    def __init__(self, channels: int, num_classes: int, *, dropout: float = 0.1, dead_init: bool = False) -> None:
        """`dead_init` starts as the authors' ports to detectron2 do: λ and the projection never get a gradient."""
        super().__init__()
        self.query = nn.Linear(channels, num_classes)
        self.key = nn.Linear(channels, num_classes)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.gain = nn.Parameter(torch.zeros(1))
        for linear in (self.query, self.key, self.value, self.project):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if dead_init:
            for linear in (self.query, self.key, self.value):
                nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(self.project.weight)

    def forward(self, x: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n k"]]:
        """Return what is to be added to the tokens, λ included, and the semantic map."""
        semantic = self.query(x)
        attended = F.scaled_dot_product_attention(semantic, self.key(x), self.value(x), scale=1.0)
        return self.gain * self.dropout(self.project(attended)), semantic


class SemanticLayer(nn.Module):
    """Normalise a stage's map, mask it with semantic attention, and give out the semantic map.

    With λ = 0 the layer is LayerNorm, not the identity: the residual starts at the normalised tokens.
    Tokens that pad a window take part in attention unmasked, and windows are never shifted.

    Source: SeMask §3.1; the residual, the padding and the extents as in the authors' code.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        window_size: int | None,
        num_units: int = 1,
        dropout: float = 0.1,
        residual: Literal["norm", "input"] = "norm",
        dead_init: bool = False,
    ) -> None:
        """`window_size` [tokens] bounds attention to windows; None attends over the whole map.

        `residual` "input" adds to the layer's raw input instead, so that λ = 0 leaves a pretrained backbone as it is.
        """
        super().__init__()
        if num_units < 1:
            raise ValueError(f"a semantic layer needs at least one unit, got {num_units}")
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size is a number of tokens ≥ 1 or None for global attention, got {window_size}")
        self.window_size = window_size
        self.residual = residual
        self.norm = nn.LayerNorm(channels)
        self.units = nn.ModuleList(
            SemanticAttention(channels, num_classes, dropout=dropout, dead_init=dead_init) for _ in range(num_units)
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"]]:
        """Return the masked map and the semantic map of the last unit, both at the map's size."""
        _, height, width, _ = x.shape
        normalised = self.norm(x)
        if self.window_size is None:
            update, semantic = self._attend(normalised.flatten(1, 2))
            update, semantic = (t.unflatten(1, (height, width)) for t in (update, semantic))
        else:
            padded = pad_to_windows(normalised, self.window_size)
            update, semantic = (
                join_windows(t, self.window_size, padded.shape[1], padded.shape[2])[:, :height, :width]
                for t in self._attend(split_windows(padded, self.window_size))
            )
        return (x if self.residual == "input" else normalised) + update, semantic

    def _attend(self, tokens: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n k"]]:
        total, semantic = self.units[0](tokens)
        for unit in self.units[1:]:
            update, semantic = unit(tokens + total)
            total = total + update
        return total, semantic
