"""The layout of SeMask's MaskFormer, Mask2Former, FaPN and MSFaPN, and of the originals' Swin models (detectron2).

Source: SeMask authors' code; the layout is spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from semask.checkpoints.rules import swin
from semask.checkpoints.rules.translation import Translation, replace_beginning, split_projections
from semask.recipes import Recipe

LAYOUT = "detectron2's mask classification"
_HEAD = "sem_seg_head."
_PIXEL_DECODER = f"{_HEAD}pixel_decoder."

_PIXEL_PARTS: tuple[tuple[str, str], ...] = (
    (r"mask_features\.", "mask_features."),
    (r"layer_4\.norm\.", "top.norm."),
    (r"layer_4\.", "top.conv."),
    (r"input_proj\.", "projections."),
    (r"transformer\.level_embed$", "level_embeddings"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.sampling_offsets\.", r"layers.\1.attention.offsets."),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.attention_weights\.", r"layers.\1.attention.weights."),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.value_proj\.", r"layers.\1.attention.value."),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.output_proj\.", r"layers.\1.attention.project."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.", r"layers.\1.norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.", r"layers.\1.mlp.norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.linear([12])\.", r"layers.\1.mlp.fc\2."),
)
_LEVEL_PARTS: tuple[tuple[str, str], ...] = (
    (r"adapter_\d\.norm\.", "lateral.norm."),
    (r"adapter_\d\.", "lateral.conv."),
    (r"layer_\d\.norm\.", "output.norm."),
    (r"layer_\d\.", "output.conv."),
    (r"align_\d\.offset\.norm\.", "align.merge.norm."),
    (r"align_\d\.offset\.", "align.merge.conv."),
    (r"align_\d\.dcpack_L2\.conv_offset_mask\.", "align.offsets."),
    (r"align_\d\.dcpack_L2\.", "align."),
)
_PREDICTOR_PARTS: tuple[tuple[str, str], ...] = (
    (r"query_embed\.weight$", "query_positions"),
    (r"(query_feat|static_query)\.weight$", "query_features"),
    (r"level_embed\.weight$", "level_embeddings"),
    (r"input_proj\.", "project."),
    (r"class_embed\.", "head.classify."),
    (r"mask_embed\.layers\.0\.", "head.embed.0."),
    (r"mask_embed\.layers\.1\.", "head.embed.2."),
    (r"mask_embed\.layers\.2\.", "head.embed.4."),
    (r"decoder_norm\.", "norm."),
    (r"transformer\.decoder\.norm\.", "norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.", r"layers.\1.self_attention."),
    (r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.", r"layers.\1.cross_attention."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm1\.", r"layers.\1.self_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm2\.", r"layers.\1.cross_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm3\.", r"layers.\1.mlp.norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.linear([12])\.", r"layers.\1.mlp.fc\2."),
    (r"transformer_self_attention_layers\.(\d+)\.self_attn\.", r"layers.\1.self_attention."),
    (r"transformer_self_attention_layers\.(\d+)\.norm\.", r"layers.\1.self_norm."),
    (r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"layers.\1.cross_attention."),
    (r"transformer_cross_attention_layers\.(\d+)\.norm\.", r"layers.\1.cross_norm."),
    (r"transformer_ffn_layers\.(\d+)\.norm\.", r"layers.\1.mlp.norm."),
    (r"transformer_ffn_layers\.(\d+)\.linear([12])\.", r"layers.\1.mlp.fc\2."),
)
_JOINED = re.compile(r"(.*\.)in_proj_(weight|bias)")
"""Query, key and value projections in one tensor."""

CLASS_TENSORS = re.compile(rf"{swin.CLASS_TENSORS}|decoder\.predictor\.head\.classify\.(weight|bias)")


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names; joined projections of attention are taken apart."""
    # MaskFormer's first layout, and the two pixel decoders: their levels have different names
    old = not any(key.startswith(_PIXEL_DECODER) for key in tensors)
    deformable = any("pixel_decoder.input_proj." in _modern(key, old=old) for key in tensors)
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, value in tensors.items():
        ours = _rename(_modern(key, old=old), deformable=deformable)
        if ours is None:
            continue
        for name, part in split_projections(ours, value, _JOINED):
            found[name], names[name] = part, key
    return Translation(found, tensors, names, recipe, LAYOUT)


def _modern(key: str, *, old: bool) -> str:
    """The name of a tensor with the pixel decoder's part, which MaskFormer's first layout lacks."""
    if old and key.startswith(_HEAD) and not key.startswith(f"{_HEAD}predictor."):
        return _PIXEL_DECODER + key.removeprefix(_HEAD)
    return key


def _rename(key: str, *, deformable: bool) -> str | None:
    """Our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if swin.is_derived(key) or key.startswith("criterion."):
        return None
    if key.startswith(_PIXEL_DECODER):
        rest = key.removeprefix(_PIXEL_DECODER)
        part, match = replace_beginning(rest, _PIXEL_PARTS), re.match(r"(adapter|layer|align)_([123])\.", rest)
        if part is None and match and (level := replace_beginning(rest, _LEVEL_PARTS)):
            # after deformable attention there is one level, the finest
            part = f"finest.{level}" if deformable else f"levels.{int(match[2]) - 1}.{level}"
        return key if part is None else f"decoder.pixel_decoder.{part}"
    if key.startswith(f"{_HEAD}predictor."):
        part = replace_beginning(key.removeprefix(f"{_HEAD}predictor."), _PREDICTOR_PARTS)
        return key if part is None else f"decoder.predictor.{part.replace('.out_proj.', '.project.')}"
    return swin.rename(key) or key
