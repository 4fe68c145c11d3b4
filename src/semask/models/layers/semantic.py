"""The semantic layer: attention through class maps, placed after each stage of a hierarchical backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.attention import sdpa_mixed_widths
from semask.ops.windows import Kinds, WindowLayer, attend_in_windows, crop, pad_to_windows, window_masks


class SemanticAttention(nn.Module):
    """Attention between tokens that belong to the same classes.

    The query projection is the semantic map itself: K class scores per token, supervised by the labels. The softmax
    over query · key is neither scaled nor biased, and λ (`gain`) weighs the update of the tokens.

    Args:
        channels: Width of the tokens.
        num_classes: K; None: single-head self-attention instead, whose queries are as wide as tokens, and scaled.
        dropout: Rate after the projection, 0.1 in the authors' code only.
        learned_gain: Whether λ is learned, from 0; else it is 1.
        dead_init: Start as the authors' ports to detectron2: λ and the projection never get a gradient.

    Source: SeMask (arXiv:2112.12782) §3.1, eq. 1-2; tables 3 (self-attention) and 4 (λ), without public code.
    """

    gain: Tensor

    def __init__(
        self,
        channels: int,
        num_classes: int | None,
        *,
        dropout: float = 0.1,
        learned_gain: bool = True,
        dead_init: bool = False,
    ) -> None:
        super().__init__()
        width = channels if num_classes is None else num_classes
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.semantic = num_classes is not None
        self.scale = 1.0 if self.semantic else channels**-0.5
        if learned_gain:
            self.gain = nn.Parameter(torch.zeros(1))
        else:
            self.register_buffer("gain", torch.ones(1), persistent=False)
        for linear in (self.query, self.key, self.value, self.project):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if dead_init:
            # the projection starts at zero, too
            for linear in (self.query, self.key, self.value):
                nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(self.project.weight)

    def forward(self, x: Float[Tensor, "*b n c"]) -> tuple[Tensor, ...]:
        """Return the update of the tokens (*b n c), λ included, and the semantic map (*b n k)."""
        features = self.queries_keys_values(x)
        # eq. 1: softmax(QKᵀ)V
        return self.update(sdpa_mixed_widths(*features, scale=self.scale), features)

    def queries_keys_values(self, x: Float[Tensor, "*n c"]) -> tuple[Tensor, ...]:
        """Project tokens to the semantic map Q (*n k), keys K (*n k) and values V (*n c)."""
        return self.query(x), self.key(x), self.value(x)

    def update(self, attended: Float[Tensor, "*n c"], features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return λ · W softmax(QKᵀ)V, eq. 2, and the semantic map Q."""
        return self.gain * self.dropout(self.project(attended)), features[0]


class SemanticLayer(nn.Module):
    """LayerNorm and units of semantic attention over a stage's map, with the semantic map as a second result.

    With λ = 0 the layer is LayerNorm, not the identity: the residual starts at the normalised tokens; `residual`
    "input" starts at the raw ones, so that a pretrained backbone stays as it is. Attention reaches over windows of
    `window_size` tokens (None: the whole map), moved by half their side for units whose `shifts` are True. Tokens that
    pad a window take part in attention unmasked.

    Source: SeMask §3.1; the residual, the padding and the extents as in the authors' code.
    """

    near: Tensor | None

    def __init__(
        self,
        channels: int,
        units: Sequence[SemanticAttention],
        *,
        window_size: int | None,
        shifts: Sequence[bool] | None = None,
        residual: Literal["norm", "input"] = "norm",
    ) -> None:
        super().__init__()
        self.window_size, self.residual = window_size, residual
        self.shifts = [(window_size or 0) // 2 * shifted for shifted in shifts or [False] * len(units)]
        shift = max(self.shifts)
        self.register_buffer("near", window_masks(window_size, shift=shift) if window_size and shift else None, False)
        self.norm = nn.LayerNorm(channels)
        self.units = nn.ModuleList(units)

    def forward(self, x: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"] | None]:
        """Return the masked map and the last unit's semantic map, both at the map's size; self-attention has none."""
        if len(self.units) == 1 and self.window_size is not None:
            masked, semantic = self._attend(x, 0, norm=self.norm, residual=self._add)
        else:
            # Several units share one padded map: each reads what the one before made of the padding.
            normalised = self.norm(x)
            tokens = normalised if self.window_size is None else pad_to_windows(normalised, self.window_size)
            total, semantic = self._attend(tokens, 0)
            for number in range(1, len(self.units)):
                update, semantic = self._attend(tokens + total, number)
                total = total + update
            if self.window_size is not None:
                total, semantic = (crop(each, *x.shape[1:3]) for each in (total, semantic))
            masked = self._add(x, normalised, total)
        return masked, semantic if self.units[-1].semantic else None

    def _attend(self, x: Float[Tensor, "b h w c"], number: int, **steps: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        unit: Any = self.units[number]
        shift = self.shifts[number]
        if self.window_size is None:
            return tuple(each.unflatten(1, x.shape[1:3]) for each in unit(x.flatten(1, 2)))

        near = self.near if shift else None
        attend = partial(self._attend_in_window, near=near, scale=unit.scale)
        layer = WindowLayer(unit.queries_keys_values, attend, unit.update, **steps)
        return attend_in_windows(x, self.window_size, layer, shift=shift)

    def _attend_in_window(
        self, features: tuple[Tensor, ...], kinds: Kinds, *, near: Tensor | None, scale: float
    ) -> Tensor:
        # eq. 1 between tokens that were adjacent before the shift
        return sdpa_mixed_widths(*features, mask=None if near is None else near[kinds], scale=scale)

    def _add(self, x: Float[Tensor, "*n c"], normalised: Float[Tensor, "*n c"], update: Tensor) -> Tensor:
        return (x if self.residual == "input" else normalised) + update
