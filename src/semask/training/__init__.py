"""Training: the only Lightning code of the package. `SegmentationModule` runs under any `lightning.Trainer`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semask.data.dataset import collate
    from semask.training.module import SegmentationModule

# Imported on demand: `semask train --help` reads options.py and must not wait for Lightning.
_HOMES = {"SegmentationModule": "semask.training.module", "collate": "semask.data.dataset"}
__all__ = ["SegmentationModule", "collate"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
