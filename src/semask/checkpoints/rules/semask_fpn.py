"""The layout of SeMask-FPN and Swin-FPN checkpoints (mmsegmentation).

Source: SeMask authors' code; the layout is spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import Recipe

LAYOUT = "mmsegmentation's Swin FPN"

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\.", r"encoder.chain.patch_embed."),
    (r"backbone\.layers\.(\d+)\.blocks\.", r"encoder.chain.layers_\1.blocks."),
    (r"backbone\.layers\.(\d+)\.semantic_layer\.norm1\.", r"encoder.semantic.\1.norm."),
    (r"backbone\.layers\.(\d+)\.semantic_layer\.class_injection\.(\d+)\.", r"encoder.semantic.\1.units.\2."),
    (r"backbone\.norm(\d+)\.", r"encoder.norms.\1."),
    (r"decode_head\.scale_heads\.", r"decoder.branches."),
    (r"decode_head\.conv_seg\.", r"decoder.classify."),
)
_UNIT_PARTS = {"mlp_cls_q": "query", "mlp_cls_k": "key", "mlp_v": "value", "mlp_res": "project", "gamma": "gain"}
_DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that follow from the sizes."""

CLASS_TENSORS = re.compile(r"(encoder\.semantic\.\d+\.units\.\d+\.(query|key)|decoder\.classify)\.(weight|bias)")
"""Our tensors whose first axis is the classes."""


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names; shapes and recipe stay."""
    names = names_in_file(tensors, rename)
    return Translation({ours: tensors[key] for ours, key in names.items()}, tensors, names, recipe, LAYOUT)


def rename(key: str) -> str | None:
    """Return our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if key.rsplit(".", 1)[-1] in _DERIVED:
        return None
    if match := re.match(r"backbone\.layers\.(\d+)\.downsample\.(.*)", key):
        # The authors merge patches at the end of a stage, timm at the start of the next.
        return f"encoder.chain.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    name = replace_beginning(key, _RENAMES)
    if name is not None and ".units." in name:
        return re.sub("|".join(_UNIT_PARTS), lambda part: _UNIT_PARTS[part[0]], name)
    return key if name is None else name
