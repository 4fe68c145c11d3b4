"""From a decoder's recipe to SETR's decoders, which read several maps of a plain ViT."""

from __future__ import annotations

from torch import nn

from semask.build.encoder import Encoder
from semask.build.sizes import width_of
from semask.models.decoders.setr import SETR, SETRMLA, SETRHead
from semask.models.decoders.supervised import Supervised
from semask.recipes import DecoderRecipe

SETR_DECODERS = ("setr_naive", "setr_pup", "setr_mla")
"""Decoders by name."""
_MAIN = {
    "setr_naive": {"kernel_size": 1, "steps": 1, "factor": 4},
    "setr_pup": {"kernel_size": 3, "steps": 4, "factor": 2},
}
_AUXILIARY = {
    "setr_naive": {"kernel_size": 1, "steps": 2, "factor": 4},
    "setr_pup": {"kernel_size": 3, "steps": 2, "factor": 4},
}


def build_setr(spec: DecoderRecipe, encoder: Encoder, num_classes: int) -> nn.Module:
    """Return the decoder of that name, supervised at every map if the recipe says so; the last has the main head."""
    channels, width = encoder.channels, width_of(spec, encoder)
    if len(channels) == 1 or len({*encoder.strides}) > 1:
        raise ValueError(
            f"{spec.name} reads several maps of one stride, and this encoder's have the strides {encoder.strides}; "
            "take a plain ViT and name its layers, such as --model.encoder.out-layers 6 12 18 24"
        )
    if spec.name == "setr_mla":
        return SETRMLA(channels, num_classes=num_classes, channels=width, auxiliary=spec.auxiliary)
    main, head = _MAIN[spec.name], _AUXILIARY[spec.name]
    decoder = SETR(SETRHead(channels[-1], num_classes=num_classes, channels=width, **main))
    if not spec.auxiliary:
        return decoder
    heads = [SETRHead(deep, num_classes=num_classes, channels=width, **head) for deep in channels[:-1]]
    return Supervised(decoder, heads, levels=range(len(heads)))
