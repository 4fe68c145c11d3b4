"""The published layouts of Mix Transformers: the authors', those of `transformers`, and mmsegmentation's.

Source: SegFormer (arXiv:2105.15203), authors' code; transformers 5.23, whose files and models in memory have different
names; mmsegmentation 1.2.2, spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re

from torch import Tensor

_PLACES: tuple[tuple[str, int, str], ...] = (
    (r"(?:backbone\.)?patch_embed(\d)\.", 1, "stage{}.embed."),
    (r"(?:backbone\.)?block(\d)\.", 1, "stage{}.blocks."),
    (r"(?:backbone\.)?norm(\d)\.", 1, "norm{}."),
    (r"(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.", 0, "stage{}.embed."),
    (r"(?:segformer\.)?encoder\.block\.(\d)\.", 0, "stage{}.blocks."),
    (r"(?:segformer\.)?encoder\.layer_norm\.(\d)\.", 0, "norm{}."),
    (r"(?:segformer\.)?stages\.(\d)\.patch_embeddings\.", 0, "stage{}.embed."),
    (r"(?:segformer\.)?stages\.(\d)\.blocks\.", 0, "stage{}.blocks."),
    (r"(?:segformer\.)?stages\.(\d)\.layer_norm\.", 0, "norm{}."),
    (r"(?:backbone\.)?layers\.(\d)\.0\.", 0, "stage{}.embed."),
    (r"(?:backbone\.)?layers\.(\d)\.1\.", 0, "stage{}.blocks."),
    (r"(?:backbone\.)?layers\.(\d)\.2\.", 0, "norm{}."),
)
"""The beginning of a published name, the number of its first stage, and our beginning."""
_OF_PATCHES = {"projection": "proj", "layer_norm": "norm"}
_OF_BLOCKS = {
    "norm1": ("layer_norm_1", "layernorm_before"),
    "norm2": ("layer_norm_2", "layernorm_after"),
    "attention.query": ("attn.q", "attention.self.query", "attention.q_proj"),
    "attention.key": ("attention.self.key", "attention.k_proj"),
    "attention.value": ("attention.self.value", "attention.v_proj"),
    "attention.key+value": ("attn.kv",),
    "attention.query+key+value": ("attn.attn.in_proj",),
    "attention.project": ("attn.proj", "attention.output.dense", "attention.o_proj", "attn.attn.out_proj"),
    "attention.reduce.conv": ("attn.sr", "attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
    "attention.reduce.norm": ("attn.norm", "attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
    "mlp.expand": ("mlp.fc1", "mlp.dense1", "ffn.layers.0"),
    "mlp.depthwise": ("mlp.dwconv.dwconv", "ffn.layers.1"),
    "mlp.contract": ("mlp.fc2", "mlp.dense2", "ffn.layers.4"),
}
"""Our names, + where several tensors are one there, and those of the layouts."""
_OURS = {theirs: ours for ours, others in _OF_BLOCKS.items() for theirs in others}


def chain_tensors(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Return what a published tensor holds in the names of our chain; nothing when it is not of a Mix Transformer."""
    for pattern, first, ours in _PLACES:
        match = re.match(pattern, key)
        if match is not None:
            place, rest = ours.format(int(match[1]) - first + 1), key[match.end() :]
            return _of_block(place, rest, value) if ".blocks." in place else [(place + _of_patches(rest), value)]
    return []


def _of_patches(rest: str) -> str:
    part, _, kind = rest.rpartition(".")
    return f"{_OF_PATCHES.get(part, part)}.{kind}" if part else kind


def _of_block(place: str, rest: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Rename and split a tensor of a block; `rest` is such as 0.attn.kv.weight."""
    match = re.fullmatch(r"(\d+)\.(.+)[._](weight|bias)", rest)
    if match is None:
        return [(place + rest, value)]
    block, part, kind = match.groups()
    *path, last = _OURS.get(part, part).split(".")
    parts = last.split("+")
    if last in ("expand", "contract") and value.ndim == 4:
        value = value.flatten(1)  # a 1×1 convolution there, a linear layer here
    values = value.chunk(len(parts)) if value.ndim else (value,) * len(parts)
    beginning = ".".join([place + block, *path])
    return [(f"{beginning}.{name}.{kind}", piece) for name, piece in zip(parts, values, strict=False)]
