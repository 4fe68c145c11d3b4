"""Semantic segmentation with transformers: SeMask and Segmenter. The public API on one screen, imported lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semask.build import build
    from semask.checkpoints.convert import load_published
    from semask.models.model import SegmentationModel
    from semask.recipes import Recipe
    from semask.recipes import get as recipe
    from semask.recipes import names as recipes
    from semask.structures import Features, MaskLogits, PixelLogits, Segmentation

__version__ = "0.1.0"

_CALLABLE_MODULES = ("build", "recipes")
_HOMES = {
    "load_published": ("semask.checkpoints.convert", "load_published"),
    "SegmentationModel": ("semask.models.model", "SegmentationModel"),
    "Recipe": ("semask.recipes", "Recipe"),
    "recipe": ("semask.recipes", "get"),
    "Features": ("semask.structures", "Features"),
    "MaskLogits": ("semask.structures", "MaskLogits"),
    "PixelLogits": ("semask.structures", "PixelLogits"),
    "Segmentation": ("semask.structures", "Segmentation"),
}

__all__ = [
    "Features",
    "MaskLogits",
    "PixelLogits",
    "Recipe",
    "Segmentation",
    "SegmentationModel",
    "build",
    "load",
    "load_published",
    "recipe",
    "recipes",
]


def load(directory: str, *, device: str = "cpu") -> SegmentationModel:
    """Return the model of a checkpoint directory of ours (model.safetensors + recipe.json), in evaluation mode."""
    from semask.checkpoints import store

    return store.load(directory, device=device).model


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_MODULES:
        return importlib.import_module(f"semask.{name}")
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'semask' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
