"""The names of SeMask Swin in the authors' four sub-projects, which agree.

Source: SeMask authors' code; the layout is spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re

from semask.checkpoints.rules.translation import replace_beginning

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\.", r"encoder.chain.patch_embed."),
    (r"backbone\.layers\.(\d+)\.blocks\.", r"encoder.chain.layers_\1.blocks."),
    (r"backbone\.layers\.(\d+)\.semantic_layer\.norm1\.", r"encoder.semantic.\1.norm."),
    (r"backbone\.layers\.(\d+)\.semantic_layer\.class_injection\.(\d+)\.", r"encoder.semantic.\1.units.\2."),
    (r"backbone\.norm(\d+)\.", r"encoder.norms.\1."),
)
_UNIT_PARTS = {"mlp_cls_q": "query", "mlp_cls_k": "key", "mlp_v": "value", "mlp_res": "project", "gamma": "gain"}
_DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that are computed from the sizes."""

CLASS_TENSORS = r"encoder\.semantic\.\d+\.units\.\d+\.(query|key)\.(weight|bias)"
"""Our tensors of the backbone whose first axis is the classes."""


def is_derived(key: str) -> bool:
    """Whether a tensor is computed from the sizes and so not needed."""
    return key.rsplit(".", 1)[-1] in _DERIVED


def rename(key: str) -> str | None:
    """Our name of a tensor of the backbone, None for other tensors."""
    if match := re.match(r"backbone\.layers\.(\d+)\.downsample\.(.*)", key):
        # the authors merge patches at the end of a stage, timm at the start of the next
        return f"encoder.chain.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    name = replace_beginning(key, _RENAMES)
    if name is not None and ".units." in name:
        return re.sub("|".join(_UNIT_PARTS), lambda part: _UNIT_PARTS[part[0]], name)
    return name
