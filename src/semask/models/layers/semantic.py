"""The semantic layer: attention through class maps, placed after each stage of a hierarchical backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semask.ops.attention import attend
from semask.ops.tiling import Group, is_tiled, joined, run_in_groups, tiling_of
from semask.ops.windows import crop, join_windows, kinds_of_neighbours, neighbours, pad_to_windows, split_windows


class SemanticAttention(nn.Module):
    """Attend between tokens that belong to the same classes.

    The query projection is the semantic map itself: K class scores per token, supervised by the labels. The softmax
    over query · key is neither scaled nor biased, and λ (`gain`) weighs what is added to the tokens.

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
        """`num_classes` None makes it plain single-head self-attention: queries as wide as tokens, scores scaled.

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
            for linear in (self.query, self.key, self.value):
                nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(self.project.weight)

    def forward(
        self, x: Float[Tensor, "*b n c"], mask: Bool[Tensor, "*_w n n"] | None = None
    ) -> tuple[Float[Tensor, "*b n c"], Float[Tensor, "*b n k"]]:
        """Return what is to be added to the tokens, λ included, and the semantic map; `mask` is True where to look."""
        semantic = self.query(x)
        attended = attend(semantic, self.key(x), self.value(x), mask=mask, scale=self.scale)
        return self._update(attended), semantic

    def attend_group(
        self, tokens: Float[Tensor, "m c"], group: Group, area: int, near: Bool[Tensor, "kinds n n"] | None
    ) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m k"]]:
        """Return what `forward` does, for tokens in windows of `area` tokens, of which zeros pad some.

        `near` says of every kind of window which tokens look at each other.
        """
        linears = (self.query, self.key, self.value)
        made = [linear(tokens) for linear in linears]
        padding = [group.padding(linear, tokens) for linear in linears]
        attended = []
        for (part, query), (_, key), (_, value) in zip(*(group.shares(values) for values in made), strict=True):
            windows = [part.fill(*pair, area) for pair in zip((query, key, value), padding, strict=True)]
            mask = None if near is None else near[part.kind]
            attended.append(part.drain(attend(*windows, mask=mask, scale=self.scale)))
        return self._update(joined(attended)), made[0]

    def _update(self, attended: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n c"]:
        out: Tensor = self.gain * self.dropout(self.project(attended))
        return out


class SemanticLayer(nn.Module):
    """Normalise a stage's map, mask it with semantic attention, and give out the semantic map.

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
        """`window_size` [tokens] bounds attention to windows; None attends over the whole map.

        `shifts` says of every unit whether its windows are moved by half their side, None that none is. `residual`
        "input" adds to the layer's raw input instead, so that λ = 0 leaves a pretrained backbone as it is.
        """
        super().__init__()
        if not units:
            raise ValueError("a semantic layer needs at least one unit (--model.encoder.semantic-units), got 0")
        if window_size is not None and window_size < 1:
            raise ValueError(
                "the windows of semantic attention (--model.encoder.semantic-windows) are numbers of tokens ≥ 1, or "
                f"None for global attention, got {window_size}"
            )
        self.window_size = window_size
        shifts = [False] * len(units) if shifts is None else shifts
        self.shifts = tuple(window_size // 2 if shifted and window_size else 0 for shifted in shifts)
        shift = self.shifts[0]
        near = kinds_of_neighbours(window_size, shift=shift) if window_size is not None and shift else None
        self.register_buffer("near", near, persistent=False)
        self.residual = residual
        self.norm = nn.LayerNorm(channels)
        self.units = nn.ModuleList(units)

    def forward(self, x: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"] | None]:
        """Return the masked map and the last unit's semantic map, both at the map's size; self-attention has none."""
        in_groups = len(self.units) == 1 and self.window_size is not None and is_tiled(x)
        masked, semantic = (self._mask_in_groups if in_groups else self._mask)(x)
        return masked, semantic if self.units[-1].semantic else None

    def _mask(self, x: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"]]:
        _, height, width, _ = x.shape
        normalised = self.norm(x)
        tokens = normalised if self.window_size is None else pad_to_windows(normalised, self.window_size)
        total, semantic = self._attend(tokens, 0)
        for number in range(1, len(self.units)):
            update, semantic = self._attend(tokens + total, number)
            total = total + update
        if self.window_size is not None:
            total, semantic = (crop(t, height, width) for t in (total, semantic))
        return self._residual(x, normalised) + total, semantic

    def _mask_in_groups(self, x: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"]]:
        """Run the only unit; what several make of the padding would have to be carried from one to the next."""
        unit, size, shift = self.units[0], self.window_size, self.shifts[0]
        assert isinstance(unit, SemanticAttention)
        assert size is not None

        def run(tokens: Tensor, group: Group) -> tuple[Tensor, Tensor]:
            normalised = self.norm(tokens)
            update, semantic = unit.attend_group(normalised, group, size**2, self.near)
            return self._residual(tokens, normalised) + update, semantic

        masked, semantic = run_in_groups(x.flatten(0, 2), tiling_of(x, size, shift=shift), run)
        return masked.view(x.shape), semantic.unflatten(0, x.shape[:3])

    def _residual(self, x: Float[Tensor, "*n c"], normalised: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return x if self.residual == "input" else normalised

    def _attend(self, x: Float[Tensor, "b h w c"], number: int) -> tuple[Tensor, Tensor]:
        """Run one unit in its windows over a map that they tile."""
        unit, size, shift = self.units[number], self.window_size, self.shifts[number]
        batch, height, width, _ = x.shape
        if size is None:
            update, semantic = (t.unflatten(1, (height, width)) for t in unit(x.flatten(1, 2)))
        elif not shift:
            windows = split_windows(x, size)
            update, semantic = (join_windows(t, size, x) for t in unit(windows))
        else:
            windows = split_windows(x.roll((-shift, -shift), dims=(1, 2)), size)
            near = neighbours(height, width, size, shift=shift, device=x.device)
            out = unit(windows.unflatten(0, (batch, near.shape[0])), near)
            update, semantic = (join_windows(t.flatten(0, 1), size, x).roll((shift, shift), dims=(1, 2)) for t in out)
        return update, semantic
