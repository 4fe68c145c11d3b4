"""segmentation-models-pytorch: FPN over timm's backbones, and SegFormer."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from semask.benchmark.contender import Contender
from semask.benchmark.peers.pixels import PixelPeer, contender
from semask.models.encoders.chain import is_swin
from semask.models.encoders.mix_transformer import is_mit
from semask.ops.geometry import padding_to_multiple
from semask.recipes import Recipe

MULTIPLE = 32
"""Sides of other sizes [px] are refused there, so images are padded."""


def peer(recipe: Recipe, size: tuple[int, int]) -> Contender:
    """Return SegFormer beside ours, an FPN beside Semantic FPN; a ValueError beside all else."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    given: dict[str, Any] = {"encoder_weights": None, "classes": recipe.model.num_classes}
    network: nn.Module
    if decoder.name.startswith("segformer") and is_mit(encoder.name):
        given["decoder_segmentation_channels"] = decoder.channels
        title, network = f"smp Segformer {encoder.name}", smp.Segformer(encoder.name, **given)
    elif decoder.name == "semantic_fpn" and not is_mit(encoder.name):
        bare = encoder.name.split(".", 1)[0]
        if is_swin(encoder.name):
            given |= {"img_size": _padded(size)} | _resized(recipe)
        title, network = f"smp FPN {bare}", smp.FPN(f"tu-{bare}", **given)
    else:
        raise ValueError(
            f"segmentation-models-pytorch has no answer to {recipe.name!r} ({decoder.name} over {encoder.name}): it is "
            "compared with SegFormer and with Semantic FPN over timm's backbones, such as ade20k/semask-swin-t-fpn"
        )
    return contender(title, "smp", recipe, PixelPeer(network, recipe, multiple=MULTIPLE))


def _padded(size: tuple[int, int]) -> tuple[int, int]:
    bottom, right = padding_to_multiple(*size, MULTIPLE)
    return size[0] + bottom, size[1] + right


def _resized(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe changes of the named Swin."""
    fields = ("embed_dim", "depths", "num_heads", "window_size")
    spec = recipe.model.encoder
    return {field: getattr(spec, field) for field in fields if getattr(spec, field) is not None}
