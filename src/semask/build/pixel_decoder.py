"""From a decoder's recipe to what refines the pyramid under mask classifiers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from semask.build.encoder import Encoder
from semask.build.sizes import pyramid, width_of
from semask.models.pixel_decoders.fapn import AlignedLevel
from semask.models.pixel_decoders.fpn import FPN, Level
from semask.models.pixel_decoders.msdeform import MSDeform
from semask.recipes import DecoderRecipe

PIXEL_DECODERS = ("fpn", "msdeform", "fapn", "msfapn")
"""What refines the pyramid under mask classifiers."""
ALIGNED = ("fapn", "msfapn")
"""Those whose levels are aligned."""


def build_pixel_decoder(spec: DecoderRecipe, encoder: Encoder) -> FPN | MSDeform:
    """Return what refines the pyramid: levels that are merged or aligned, under deformable attention or not."""
    if spec.pixel_decoder not in PIXEL_DECODERS:
        raise ValueError(
            f"{spec.name} needs a pixel decoder, got {spec.pixel_decoder!r}; start from a recipe that has one, such as "
            "folder/semask-swin-t-mask2former, which brings the layers, losses and rates that belong to it, or say "
            f"--model.decoder.pixel-decoder {', '.join(PIXEL_DECODERS[:-1])} or {PIXEL_DECODERS[-1]}"
        )
    channels, width = pyramid(encoder, spec), width_of(spec, encoder)
    level: Callable[[int, int], nn.Module] = Level
    if spec.pixel_decoder in ALIGNED:
        level = partial(AlignedLevel, feature_selection=spec.feature_selection)
    if spec.pixel_decoder in ("fpn", "fapn"):
        return FPN(channels, [level(fine, width) for fine in channels[:-1]], width=width)
    return MSDeform(
        channels,
        level(channels[0], width),
        width=width,
        layers=spec.pixel_layers,
        num_heads=spec.heads,
        hidden=spec.pixel_feedforward,
    )
