"""The layout of SeMask-FPN and Swin-FPN checkpoints (mmsegmentation).

Source: SeMask authors' code; the layout is spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from semask.checkpoints.rules import swin
from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import Recipe

LAYOUT = "mmsegmentation's Swin FPN"

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"decode_head\.scale_heads\.", r"decoder.branches."),
    (r"decode_head\.conv_seg\.", r"decoder.classify."),
)

CLASS_TENSORS = re.compile(rf"{swin.CLASS_TENSORS}|decoder\.classify\.(weight|bias)")


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names; shapes and recipe stay."""
    names = names_in_file(tensors, rename)
    return Translation({ours: tensors[key] for ours, key in names.items()}, tensors, names, recipe, LAYOUT)


def rename(key: str) -> str | None:
    """Our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if swin.is_derived(key):
        return None
    return swin.rename(key) or replace_beginning(key, _RENAMES) or key
