"""From an encoder's recipe to the encoder."""

from __future__ import annotations

from torch import nn

from semask.build.checks import refuse_fields
from semask.build.semantic import build_after_stages, check_after_stages
from semask.models.encoders.chain import family_of, is_dilatable, is_swin, timm_chain
from semask.models.encoders.fixed_size import is_sized
from semask.models.encoders.hierarchical import HierarchicalEncoder
from semask.models.encoders.hrnet import HRNetEncoder, is_hrnet, stage_channels, timm_hrnet
from semask.models.encoders.mix_transformer import is_mit, mix_transformer, size_of
from semask.models.encoders.simple_pyramid import DOUBLINGS, WIDTH, SimplePyramidEncoder
from semask.models.encoders.swin import give_queries
from semask.models.encoders.vit import PlainEncoder, is_plain, timm_vit
from semask.models.layers.polarized import PolarizedSelfAttention
from semask.recipes import DataRecipe, EncoderRecipe

Encoder = HierarchicalEncoder | HRNetEncoder | PlainEncoder | SimplePyramidEncoder

_SWIN_FIELDS = ("embed_dim", "depths", "num_heads", "window_size")
_FIELDS = {
    "Swin": _SWIN_FIELDS,
    "plain ViTs": (
        "patch_size",
        "dropout",
        "norm_eps",
        "position_resize",
        "out_layers",
        "class_token",
        "simple_pyramid",
    ),
    "plain ViTs and families of a fixed size": ("image_size",),
    "Mix Transformers": ("semantic_place",),
    "ResNets, ResNeSts and aligned Xceptions": ("output_stride",),
    "HRNets": ("polarized_attention",),
}
"""What only some backbones have, and which ones do."""


def build_encoder(
    spec: EncoderRecipe, num_classes: int, *, crop: tuple[int, int] = DataRecipe.crop, channels: int = 3
) -> Encoder:
    """Return the backbone for images of `channels`, with semantic layers for `num_classes` if the recipe has them.

    `crop` (height, width) [px] is what families of a fixed size are made for unless the recipe says another size.
    """
    check_after_stages(spec, swin=not is_mit(spec.name) and is_swin(spec.name))
    if is_mit(spec.name):
        return build_mix_transformer(spec, num_classes, channels=channels)
    if is_hrnet(spec.name):
        return build_hrnet(spec, num_classes, channels=channels)
    if is_plain(spec.name):
        return build_plain(spec, num_classes, channels=channels)
    return build_hierarchical(spec, num_classes, crop=crop, channels=channels)


def build_mix_transformer(spec: EncoderRecipe, num_classes: int, *, channels: int) -> HierarchicalEncoder:
    """Return SegFormer's backbone, with a semantic layer after the blocks of each stage if the recipe has them."""
    _refuse_all_but(spec, ("semantic_place", "norm_eps"))
    chain = mix_transformer(
        size_of(spec.name),
        drop_path=spec.drop_path,
        norm_eps=spec.norm_eps,
        semantic_place=spec.semantic_place,
        in_channels=channels,
    )
    return HierarchicalEncoder(chain, semantic=build_after_stages(spec, chain.channels, num_classes))


def build_hrnet(spec: EncoderRecipe, num_classes: int, *, channels: int) -> HRNetEncoder:
    """Return HRNet, with polarised self-attention in its blocks and semantic layers if the recipe has them."""
    _refuse_all_but(spec, _FIELDS["HRNets"])
    if spec.drop_path:
        raise ValueError(
            f"{spec.name!r} has no stochastic depth, not {spec.drop_path}; say --model.encoder.drop-path 0"
        )
    backbone = timm_hrnet(
        spec.name, attention=PolarizedSelfAttention if spec.polarized_attention else None, in_channels=channels
    )
    return HRNetEncoder(backbone, semantic=build_after_stages(spec, stage_channels(backbone), num_classes))


def build_plain(spec: EncoderRecipe, num_classes: int, *, channels: int) -> PlainEncoder | SimplePyramidEncoder:
    """Return a plain ViT, which has one stage or, with a simple pyramid, four levels that take semantic layers."""
    _refuse_all_but(spec, (*_FIELDS["plain ViTs"], "image_size"))
    if not spec.simple_pyramid and (spec.semantic_layers or spec.probe is not None):
        raise ValueError(
            f"{spec.name!r} is a plain ViT without stages to put semantic layers or probes after; make a pyramid of "
            "its map with --model.encoder.simple-pyramid true, use a hierarchical backbone, such as Swin, or say "
            "--model.encoder.semantic-layers false --model.encoder.probe None"
        )
    if spec.simple_pyramid and spec.out_layers is not None:
        raise ValueError(
            "a simple pyramid is made of the last map alone; say --model.encoder.out-layers None, or "
            "--model.encoder.simple-pyramid false"
        )
    backbone = timm_vit(
        spec.name,
        drop_path=spec.drop_path,
        dropout=spec.dropout,
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        norm_eps=spec.norm_eps,
        in_channels=channels,
    )
    plain = PlainEncoder(
        backbone, position_resize=spec.position_resize, out_layers=spec.out_layers, class_token=spec.class_token
    )
    if not spec.simple_pyramid:
        return plain
    return SimplePyramidEncoder(plain, semantic=build_after_stages(spec, (WIDTH,) * len(DOUBLINGS), num_classes))


def build_hierarchical(
    spec: EncoderRecipe, num_classes: int, *, crop: tuple[int, int], channels: int
) -> HierarchicalEncoder:
    """Return a backbone of stages, with a semantic layer after each if the recipe has them."""
    swin = is_swin(spec.name)
    allowed = _SWIN_FIELDS if swin else ("image_size",) if is_sized(family_of(spec.name)) else ()
    _refuse_all_but(spec, ("output_stride",) if is_dilatable(spec.name) else allowed)
    given = {field: getattr(spec, field) for field in _SWIN_FIELDS if getattr(spec, field) is not None}
    if is_dilatable(spec.name):
        given["output_stride"] = spec.output_stride
    chain = timm_chain(spec.name, size=spec.image_size or crop, drop_path=spec.drop_path, in_channels=channels, **given)
    if spec.probe == "queries":
        give_queries(chain.modules)
    norms = [nn.LayerNorm(channels) for channels in chain.channels] if swin else []
    return HierarchicalEncoder(chain, semantic=build_after_stages(spec, chain.channels, num_classes), norms=norms)


def _refuse_all_but(spec: EncoderRecipe, allowed: tuple[str, ...]) -> None:
    """Refuse what says nothing to this backbone."""
    for whose, fields in _FIELDS.items():
        refuse_fields(spec, tuple(field for field in fields if field not in allowed), whose)
