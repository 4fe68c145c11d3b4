"""The Swin and SeMask Swin models that the dataset recipes share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from semask.recipes.recipe import EncoderRecipe, ModelRecipe, Windows

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


def swin_fpn(variant: Variant, num_classes: int) -> ModelRecipe:
    """Return plain Swin with Semantic FPN, the paper's baseline."""
    return ModelRecipe(
        encoder=EncoderRecipe(name=SWIN[variant].timm_name, drop_path=DROP_PATH), num_classes=num_classes
    )


def semask_swin_fpn(variant: Variant, num_classes: int, *, global_from: int) -> ModelRecipe:
    """Return SeMask Swin with Semantic FPN; stages from `global_from` (0 … 4) on attend over the whole map."""
    name, window = SWIN[variant]
    windows: Windows = tuple(window if stage < global_from else None for stage in range(4))  # type: ignore[assignment]
    encoder = EncoderRecipe(name=name, drop_path=DROP_PATH, semantic_layers=True, semantic_windows=windows)
    return ModelRecipe(encoder=encoder, num_classes=num_classes)
