"""The layouts of Segmenter checkpoints: the authors', and mmsegmentation's, which has other numerics.

mmsegmentation's encoder has LayerNorms of epsilon 1e-6 and resizes its position table bicubically; its decoder has
stochastic depth in place of dropout; its test does not enlarge small images. It resizes the scores of a padded image to
the image's size, where the authors and we cut the padding off: scores differ where sides are no multiples of the patch.

Source: Segmenter (arXiv:2105.05633), authors' code; mmsegmentation 1.2.2; layouts by the fixtures in tests/reference.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import Published, Recipe
from semask.recipes.decoders import SegmenterMaskOptions
from semask.recipes.encoders import ViTOptions

AUTHORS = "the authors' Segmenter"
MMSEGMENTATION = (
    "mmsegmentation's Segmenter; the recipe takes over its numerics: norm_eps 1e-6, bicubic position table, "
    "drop_path 0.1 instead of dropout in the decoder, images that are not enlarged"
)

_DROPPED = re.compile(r"encoder\.head(_dist)?\.")
"""Classifiers of the pretraining, which no decoder reads."""
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"encoder\.", "encoder.backbone."),
    (r"decoder\.head\.", "decoder.classify."),
    (r"decoder\.cls_emb$", "decoder.class_embeddings"),
    (r"decoder\.proj_dec\.", "decoder.project."),
    (r"decoder\.proj_patch$", "decoder.patch_projection"),
    (r"decoder\.proj_classes$", "decoder.class_projection"),
    (r"decoder\.decoder_norm\.", "decoder.norm."),
)
_MMSEGMENTATION_RENAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\.projection\.", "encoder.backbone.patch_embed.proj."),
    (r"backbone\.layers\.", "encoder.backbone.blocks."),
    (r"backbone\.ln1\.", "encoder.backbone.norm."),
    (r"backbone\.", "encoder.backbone."),
    (r"decode_head\.layers\.", "decoder.blocks."),
    (r"decode_head\.conv_seg\.", "decoder.classify."),
    (r"decode_head\.cls_emb$", "decoder.class_embeddings"),
    (r"decode_head\.dec_proj\.", "decoder.project."),
    (r"decode_head\.patch_proj\.weight$", "decoder.patch_projection"),
    (r"decode_head\.classes_proj\.weight$", "decoder.class_projection"),
    (r"decode_head\.decoder_norm\.", "decoder.norm."),
    (r"decode_head\.", "decoder."),
)
_BLOCK_PARTS = {
    ".ln1.": ".norm1.",
    ".ln2.": ".norm2.",
    ".attn.attn.in_proj_": ".attn.qkv.",
    ".attn.attn.out_proj.": ".attn.proj.",
    ".ffn.layers.0.0.": ".mlp.fc1.",
    ".ffn.layers.1.": ".mlp.fc2.",
}
_PATCH_WEIGHT = "encoder.backbone.patch_embed.proj.weight"
_PATCH_BIAS = "encoder.backbone.patch_embed.proj.bias"

CLASS_TENSORS = re.compile(r"decoder\.(class_embeddings|(mask_norm|classify)\.(weight|bias))")


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names and shapes; mmsegmentation's changes the recipe."""
    theirs = any(key.startswith("backbone.") for key in tensors)
    names = names_in_file(tensors, rename)
    found = {ours: _shaped(ours, tensors[key], transpose=theirs) for ours, key in names.items()}
    if not theirs:
        return Translation(found, tensors, names, recipe, AUTHORS)
    # the layout's numerics, without the paper's figures, which belong to another model
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    if isinstance(encoder, ViTOptions):
        encoder = dataclasses.replace(encoder, norm_eps=1e-6, position_resize="bicubic")
    if isinstance(decoder, SegmenterMaskOptions):
        decoder = dataclasses.replace(decoder, dropout=0.0, drop_path=0.1)
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder),
        test=dataclasses.replace(recipe.test, enlarge=False),
        published=Published(),
    )
    return Translation(with_patch_bias(found), tensors, names, recipe, MMSEGMENTATION)


def with_patch_bias(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in our names with a bias of the patch convolution; mmsegmentation has none since release 1.0."""
    if _PATCH_BIAS in found or _PATCH_WEIGHT not in found or not found[_PATCH_WEIGHT].ndim:
        return dict(found)
    return {**found, _PATCH_BIAS: torch.zeros(len(found[_PATCH_WEIGHT]))}


def rename(key: str) -> str | None:
    """Our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if _DROPPED.match(key):
        return None
    name = replace_beginning(key, (*_RENAMES, *_MMSEGMENTATION_RENAMES))
    if name is not None and ".blocks." in name:
        for theirs, ours in _BLOCK_PARTS.items():
            name = name.replace(theirs, ours)
    return key if name is None else name


def _shaped(ours: str, value: Tensor, *, transpose: bool) -> Tensor:
    """Bring a tensor into our shape where the layouts store it otherwise."""
    if ours == "decoder.class_embeddings" and value.ndim == 3:
        return value.squeeze(0)
    # a linear layer there, a 1×1 convolution here
    if ours == "decoder.classify.weight" and value.ndim == 2:
        return value[:, :, None, None]
    if transpose and ours in ("decoder.patch_projection", "decoder.class_projection") and value.ndim == 2:
        # the weight of a Linear there, a matrix multiplied from the right here
        return value.T
    return value
