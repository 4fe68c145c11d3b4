"""The names of mmsegmentation's backbones: ResNet in its variants, HRNet, and its own Swin.

Its Swin merges patches at the end of a stage and reads the four neighbours of every channel together; the original
Swin, and ours, reads all channels of one neighbour after the other's.

Source: mmsegmentation 1.2.2; the layouts are spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from semask.checkpoints.rules.translation import replace_beginning

PREFIX = "backbone."

_STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}
_SWIN: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\.projection\.", "encoder.chain.patch_embed.proj."),
    (r"backbone\.patch_embed\.norm\.", "encoder.chain.patch_embed.norm."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.", r"encoder.chain.layers_\1.blocks.\2.attn."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.", r"encoder.chain.layers_\1.blocks.\2.mlp.fc1."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.", r"encoder.chain.layers_\1.blocks.\2.mlp.fc2."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.", r"encoder.chain.layers_\1.blocks.\2."),
    (r"backbone\.norm(\d)\.", r"encoder.norms.\1."),
)


def is_swin(keys: Iterable[str]) -> bool:
    """Say whether the names are of mmsegmentation's own Swin."""
    return any(key.startswith("backbone.stages.") and ".w_msa." in key for key in keys)


def is_hrnet(keys: Iterable[str]) -> bool:
    """Say whether the names are of HRNet."""
    return any(key.startswith("backbone.transition1.") for key in keys)


def rename_swin(key: str) -> str:
    """Return our name of a tensor of its Swin, the key itself when unknown."""
    if match := re.match(r"backbone\.stages\.(\d)\.downsample\.(.*)", key):
        return f"encoder.chain.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    return replace_beginning(key, _SWIN) or key


def rename_hrnet(key: str) -> str:
    """Return our name of a tensor of HRNet."""
    return f"encoder.{key}"


def rename_resnet(key: str) -> str:
    """Return our name of a tensor of ResNet or ResNeSt, whose deep stem is numbered through."""
    match = re.match(r"backbone\.stem\.(\d)\.(.*)", key)
    if match and match[1] in _STEM:
        return f"encoder.chain.{_STEM[match[1]]}.{match[2]}"
    return f"encoder.chain.{key.removeprefix(PREFIX)}"


def merged_as_originally(key: str, value: Tensor) -> Tensor:
    """Bring weights of its Swin's patch merging, (channel, row, column) on the last axis, to (column, row, channel)."""
    if ".downsample." not in key or not value.ndim or value.shape[-1] % 4:
        return value
    merged: Tensor = value.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
    return merged
