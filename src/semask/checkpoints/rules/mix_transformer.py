"""Names of a Mix Transformer in published files, and ours."""

from __future__ import annotations

import re

from torch import Tensor

_LAYOUTS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (1, tuple(rf"(?:backbone\.)?{part}(\d)\." for part in ("patch_embed", "block", "norm"))),
    (0, tuple(rf"(?:segformer\.)?encoder\.{part}\.(\d)\." for part in ("patch_embeddings", "block", "layer_norm"))),
    (0, tuple(rf"(?:segformer\.)?stages\.(\d)\.{part}\." for part in ("patch_embeddings", "blocks", "layer_norm"))),
    (0, tuple(rf"(?:backbone\.)?layers\.(\d)\.{part}\." for part in ("0", "1", "2"))),
)
"""The number of a layout's first stage, and patterns of its patches, blocks and norms."""
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
"""Our names, joined by + where a layout has one tensor for them, and the names in the layouts."""
_OURS = {theirs: ours for ours, others in _OF_BLOCKS.items() for theirs in others}


def chain_tensors(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """A published tensor under the names of our chain; empty for tensors of other parts.

    The layouts are the authors', those of `transformers`, and mmsegmentation's.

    Source: SegFormer's authors' code; transformers 5.23, whose files and models in memory have different names;
    mmsegmentation 1.2.2, spelled out by the fixtures in tests/reference.
    """
    for first, patterns in _LAYOUTS:
        for pattern, ours in zip(patterns, ("stage{}.embed.", "stage{}.blocks.", "norm{}."), strict=True):
            match = re.match(pattern, key)
            if match is None:
                continue
            # stages from 1 on, then patches and norms by their part, blocks by their layers
            place, rest = ours.format(int(match[1]) - first + 1), key[match.end() :]
            if ".blocks." in place:
                return _of_block(place, rest, value)
            part, _, kind = rest.rpartition(".")
            return [(place + (f"{_OF_PATCHES.get(part, part)}.{kind}" if part else kind), value)]
    return []


def _of_block(place: str, rest: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Rename and split a tensor of a block; `rest` is such as 0.attn.kv.weight."""
    match = re.fullmatch(r"(\d+)\.(.+)[._](weight|bias)", rest)
    if match is None:
        return [(place + rest, value)]
    # one of our names, or several for a joined tensor
    block, part, kind = match.groups()
    *path, last = _OURS.get(part, part).split(".")
    parts = last.split("+")
    if last in ("expand", "contract") and value.ndim == 4:
        value = value.flatten(1)  # a 1×1 convolution there, a linear layer here
    values = value.chunk(len(parts)) if value.ndim else (value,) * len(parts)
    beginning = ".".join([place + block, *path])
    return [(f"{beginning}.{name}.{kind}", piece) for name, piece in zip(parts, values, strict=False)]
