"""The Swin and SeMask Swin models that the dataset recipes share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from semask.recipes.encoders import SemanticLayers, SwinOptions, Windows
from semask.recipes.recipe import ModelRecipe

Variant = Literal["t", "s", "b", "l"]


class SwinVariant(NamedTuple):
    """A row of SeMask's Table 1: its ImageNet weights in timm and its window [tokens]."""

    timm_name: str
    window: int


SWIN: dict[Variant, SwinVariant] = {
    "t": SwinVariant("swin_tiny_patch4_window7_224.ms_in1k", 7),
    "s": SwinVariant("swin_small_patch4_window7_224.ms_in1k", 7),
    "b": SwinVariant("swin_base_patch4_window12_384.ms_in22k", 12),
    "l": SwinVariant("swin_large_patch4_window12_384.ms_in22k", 12),
}
DROP_PATH = 0.3
"""For every variant and dataset."""


def swin(variant: Variant) -> SwinOptions:
    """Plain Swin."""
    return SwinOptions(name=SWIN[variant].timm_name, drop_path=DROP_PATH)


def semask_swin(variant: Variant, *, global_from: int, window: int | None = None) -> SwinOptions:
    """SeMask Swin; stages from `global_from` (0 … 4) on attend over the whole map, others in Swin's windows.

    `window` [tokens] is another size of the semantic windows.
    """
    extent = SWIN[variant].window if window is None else window
    windows: Windows = tuple(extent if stage < global_from else None for stage in range(4))  # type: ignore[assignment]
    return replace(swin(variant), semantic=SemanticLayers(windows=windows))


def swin_fpn(variant: Variant, num_classes: int) -> ModelRecipe:
    """Plain Swin with Semantic FPN, the paper's baseline."""
    return ModelRecipe(encoder=swin(variant), num_classes=num_classes)


def semask_swin_fpn(variant: Variant, num_classes: int, *, global_from: int) -> ModelRecipe:
    """SeMask Swin with Semantic FPN; stages from `global_from` (0 … 4) on attend over the whole map."""
    return ModelRecipe(encoder=semask_swin(variant, global_from=global_from), num_classes=num_classes)
