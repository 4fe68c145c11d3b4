"""What a decoder's recipe and the encoder decide together: widths, and which maps are read."""

from __future__ import annotations

from semask.build.encoder import Encoder
from semask.models.layers.single_scale import SingleScale
from semask.recipes import DecoderRecipe


def width_of(spec: DecoderRecipe, encoder: Encoder) -> int:
    """Return the decoder's width: the recipe's, or that of the encoder's first map."""
    return encoder.channels[0] if spec.channels is None else spec.channels


def pyramid(encoder: Encoder, spec: DecoderRecipe) -> tuple[int, ...]:
    """Return the channels of an encoder's maps; a ValueError says so when there is no pyramid of them."""
    if len({*encoder.strides}) == 1:
        raise ValueError(
            f"{spec.name} reads a pyramid of maps, and a plain ViT's are of one stride; make a pyramid of them "
            "(--model.encoder.simple-pyramid true), use segmenter_linear or segmenter_mask (--model.decoder.name), or "
            "a hierarchical backbone"
        )
    return encoder.channels


def single_scale(encoder: Encoder, spec: DecoderRecipe) -> SingleScale:
    """Return what makes one map of an encoder's maps."""
    return SingleScale(encoder.channels, encoder.strides, source=spec.single_scale, width=spec.channels)
