"""The semantic layer: attention through class maps, placed after each stage of a hierarchical backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.ops.attention import sdpa_mixed_widths
from semask.ops.resize import resize, size_of
from semask.ops.windows import Kinds, WindowLayer, attend_in_windows, crop, pad_to_windows, window_masks


class SemanticAttention(nn.Module):
    """Attention between tokens that belong to the same classes.

    The query projection is the semantic map itself: K class scores per token, supervised by the labels. The softmax
    over query · key is neither scaled nor biased, and λ (`gain`) weighs the update of the tokens.

    Source: SeMask (arXiv:2112.12782) §3.1, eq. 1-2.
    Differs: dropout 0.1 after the projection is in the authors' code only.
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
        """Build a unit; `num_classes` None makes it single-head self-attention: queries as wide as tokens, scaled.

        Without `learned_gain` λ is 1. `dead_init` starts as the authors' ports to detectron2 do: λ and the projection
        never get a gradient.

        Source: SeMask tables 3 (self-attention) and 4 (λ), of which there is no public code.
        """
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

    def forward(self, x: Float[Tensor, "*b n c"]) -> tuple[Float[Tensor, "*b n c"], Float[Tensor, "*b n k"]]:
        """Return the update of the tokens, λ included, and the semantic map."""
        features = self.queries_keys_values(x)
        update, semantic = self.update(sdpa_mixed_widths(*features, scale=self.scale), features)
        return update, semantic

    def queries_keys_values(self, x: Float[Tensor, "*n c"]) -> tuple[Tensor, ...]:
        """Project tokens to the semantic map Q (*n k), keys K (*n k) and values V (*n c)."""
        return self.query(x), self.key(x), self.value(x)

    def update(self, attended: Float[Tensor, "*n c"], features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return λ · W softmax(QKᵀ)V, eq. 2, and the semantic map Q."""
        return self.gain * self.dropout(self.project(attended)), features[0]


class SemanticLayer(nn.Module):
    """LayerNorm and units of semantic attention over a stage's map, with the semantic map as a second result.

    With λ = 0 the layer is LayerNorm, not the identity: the residual starts at the normalised tokens.
    Tokens that pad a window take part in attention unmasked.

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
        """Build a layer; `window_size` [tokens] bounds attention to windows, None attends over the whole map.

        `shifts` selects the units whose windows are moved by half their side, None none of them. `residual` "input"
        adds to the layer's raw input instead, so that λ = 0 leaves a pretrained backbone as it is.
        """
        super().__init__()
        if not units:
            raise ValueError("a semantic layer needs at least one unit (--model.encoder.semantic.units), got 0")
        if window_size is not None and window_size < 1:
            raise ValueError(
                "the windows of semantic attention (--model.encoder.semantic.windows) are numbers of tokens ≥ 1, or "
                f"None for global attention, got {window_size}"
            )
        self.window_size = window_size
        shifts = [False] * len(units) if shifts is None else shifts
        self.shifts = tuple(window_size // 2 if shifted and window_size else 0 for shifted in shifts)
        shift = max(self.shifts)
        self.register_buffer("near", window_masks(window_size, shift=shift) if window_size and shift else None, False)
        self.residual = residual
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
        """Run one unit over the whole map or inside its windows."""
        unit, shift = cast(SemanticAttention, self.units[number]), self.shifts[number]
        if self.window_size is None:
            return tuple(each.unflatten(1, x.shape[1:3]) for each in unit(x.flatten(1, 2)))

        def attend(features: tuple[Tensor, ...], kinds: Kinds) -> Tensor:
            # eq. 1: softmax(QKᵀ)V, between tokens that were neighbours before the shift
            mask = self.near[kinds] if shift and self.near is not None else None
            return sdpa_mixed_widths(*features, mask=mask, scale=unit.scale)

        layer = WindowLayer(unit.queries_keys_values, attend, unit.update, **steps)
        return attend_in_windows(x, self.window_size, layer, shift=shift)

    def _add(self, x: Float[Tensor, "*n c"], normalised: Float[Tensor, "*n c"], update: Tensor) -> Tensor:
        return (x if self.residual == "input" else normalised) + update


def sum_semantic_maps(
    maps: Sequence[Float[Tensor, "b k _h _w"]], *, align_corners: bool = False
) -> Float[Tensor, "b k h w"]:
    """Return the semantic prior: the sum of the semantic maps of all stages at the grid of the first.

    Map i is doubled i times and then brought to the first map's size, which differs when sides are odd.

    Source: SeMask §3.3; the two steps as in the authors' code.
    """
    # upsample and sum
    total = maps[0]
    for level, semantic in enumerate(maps[1:], start=1):
        for _ in range(level):
            semantic = F.interpolate(semantic, scale_factor=2.0, mode="bilinear", align_corners=align_corners)  # noqa: PLW2901
        total = total + resize(semantic, size_of(total), align_corners=align_corners)
    return total
