"""The layouts of SegFormer checkpoints: the authors', that of `transformers`, and mmsegmentation's.

`transformers` has LayerNorms of epsilon 1e-5 where the others have 1e-6; mmsegmentation's head is another function,
with BatchNorm and ReLU per branch. The recipe takes both over.

Source: SegFormer (arXiv:2105.15203), authors' code; transformers 5.23; mmsegmentation 1.2.2.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from semask.checkpoints.rules.mix_transformer import chain_tensors
from semask.checkpoints.rules.translation import Translation, replace_beginning
from semask.recipes import Published, Recipe
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import MixTransformerOptions

AUTHORS = "the authors' SegFormer"
TRANSFORMERS = "transformers' SegFormer; the recipe takes over its norm_eps 1e-5"
MMSEGMENTATION = "mmsegmentation's SegFormer; the recipe has its head, segformer_mmseg"

_OF_AUTHORS: tuple[tuple[str, str], ...] = (
    *((rf"decode_head\.linear_c{stage + 1}\.proj\.", f"decoder.branches.{stage}.") for stage in range(4)),
    (r"decode_head\.linear_fuse\.(conv|bn)\.", r"decoder.fuse.\1."),
    (r"decode_head\.linear_pred\.", "decoder.classify."),
)
_OF_TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (r"decode_head\.(?:linear_c|linear_projections)\.(\d)\.proj\.", r"decoder.branches.\1."),
    (r"decode_head\.linear_fuse\.weight", "decoder.fuse.conv.weight"),
    (r"decode_head\.batch_norm\.", "decoder.fuse.bn."),
    (r"decode_head\.classifier\.", "decoder.classify."),
)
_OF_MMSEGMENTATION: tuple[tuple[str, str], ...] = (
    (r"decode_head\.convs\.", "decoder.branches."),
    (r"decode_head\.fusion_conv\.", "decoder.fuse."),
    (r"decode_head\.conv_seg\.", "decoder.classify."),
)
_HEADS = {AUTHORS: _OF_AUTHORS, TRANSFORMERS: _OF_TRANSFORMERS, MMSEGMENTATION: _OF_MMSEGMENTATION}
_NEVER_USED = "decode_head.conv_seg."
"""A layer that the authors' head inherits and does not call."""

CLASS_TENSORS = re.compile(r"(encoder\.semantic\..*\.(query|key)|decoder\.classify)\.(weight|bias)")


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names and shapes; the layout decides the form of the head."""
    layout = AUTHORS
    if any(key.startswith("decode_head.fusion_conv.") for key in tensors):
        layout = MMSEGMENTATION
    elif any(key.startswith("segformer.") for key in tensors):
        layout = TRANSFORMERS
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, value in tensors.items():
        if layout == AUTHORS and key.startswith(_NEVER_USED):
            continue
        # of the encoder, else of the head; an unknown tensor keeps its name
        pieces = [(f"encoder.chain.{ours}", piece) for ours, piece in chain_tensors(key, value)]
        if not pieces:
            ours = replace_beginning(key, _HEADS[layout]) or key
            # a linear layer there, a 1×1 convolution here
            linear = ours.startswith("decoder.branches.") and value.ndim == 2
            pieces = [(ours, value[:, :, None, None] if linear else value)]
        for ours, piece in pieces:
            found[ours], names[ours] = piece, key
    return Translation(found, tensors, names, _as_computed(recipe, found, layout), layout)


def _as_computed(recipe: Recipe, found: Mapping[str, Tensor], layout: str) -> Recipe:
    """The recipe with the numerics of a layout; figures of the other form of the head are left out."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    if isinstance(encoder, MixTransformerOptions):
        encoder = dataclasses.replace(encoder, norm_eps=1e-5 if layout == TRANSFORMERS else None)
    form = "segformer_mmseg" if layout == MMSEGMENTATION else "segformer"
    published = recipe.published
    if form != decoder.kind:
        # the width of the other head, from the file
        fused = found.get("decoder.fuse.conv.weight")
        width = decoder.channels if fused is None or not fused.ndim else len(fused)
        published = Published()
        decoder = decoder_options(form, channels=width, dropout=getattr(decoder, "dropout", 0.1))
    model = dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder)
    return dataclasses.replace(recipe, model=model, published=published)
