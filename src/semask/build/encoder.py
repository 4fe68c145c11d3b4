"""From an encoder's recipe to the encoder."""

from __future__ import annotations

from torch import nn

from semask.build.checks import refuse_fields
from semask.build.semantic import build_after_stages, check_after_stages
from semask.encoders.chain import is_swin, timm_chain
from semask.encoders.hierarchical import HierarchicalEncoder
from semask.encoders.mix_transformer import is_mit, mix_transformer, size_of
from semask.encoders.plain import PlainEncoder, is_plain, timm_vit
from semask.encoders.swin import give_queries
from semask.recipes import DataRecipe, EncoderRecipe

Encoder = HierarchicalEncoder | PlainEncoder

_SWIN_FIELDS = ("embed_dim", "depths", "num_heads", "window_size")
_VIT_FIELDS = ("image_size", "norm_eps", "position_resize")
_MIT_FIELDS = ("semantic_place",)


def build_encoder(spec: EncoderRecipe, num_classes: int, *, crop: tuple[int, int] = DataRecipe.crop) -> Encoder:
    """Return the backbone, with semantic layers for `num_classes` classes if the recipe has them.

    `crop` (height, width) [px] is what families of a fixed size are made for unless the recipe says another size.
    """
    check_after_stages(spec, swin=not is_mit(spec.name) and is_swin(spec.name))
    if is_mit(spec.name):
        return build_mix_transformer(spec, num_classes)
    refuse_fields(spec, _MIT_FIELDS, "Mix Transformers")
    return build_plain(spec) if is_plain(spec.name) else build_hierarchical(spec, num_classes)


def build_mix_transformer(spec: EncoderRecipe, num_classes: int) -> HierarchicalEncoder:
    """Return SegFormer's backbone, with a semantic layer after the blocks of each stage if the recipe has them."""
    refuse_fields(spec, _SWIN_FIELDS, "Swin")
    refuse_fields(spec, tuple(field for field in _VIT_FIELDS if field != "norm_eps"), "plain ViTs")
    chain = mix_transformer(
        size_of(spec.name), drop_path=spec.drop_path, norm_eps=spec.norm_eps, semantic_place=spec.semantic_place
    )
    return HierarchicalEncoder(chain, semantic=build_after_stages(spec, chain.channels, num_classes))


def build_plain(spec: EncoderRecipe) -> PlainEncoder:
    """Return a plain ViT, which has one stage and no semantic layers."""
    refuse_fields(spec, _SWIN_FIELDS, "Swin")
    if spec.semantic_layers:
        raise ValueError(
            f"{spec.name!r} is a plain ViT without stages to put semantic layers after; use a hierarchical backbone, "
            "such as Swin, or say --model.encoder.semantic-layers false"
        )
    backbone = timm_vit(spec.name, drop_path=spec.drop_path, image_size=spec.image_size, norm_eps=spec.norm_eps)
    return PlainEncoder(backbone, position_resize=spec.position_resize)


def build_hierarchical(spec: EncoderRecipe, num_classes: int) -> HierarchicalEncoder:
    """Return a backbone of stages, with a semantic layer after each if the recipe has them."""
    swin = is_swin(spec.name)
    refuse_fields(spec, _VIT_FIELDS, "plain ViTs")
    if not swin:
        refuse_fields(spec, _SWIN_FIELDS, "Swin")
    given = {field: getattr(spec, field) for field in _SWIN_FIELDS if getattr(spec, field) is not None}
    chain = timm_chain(spec.name, drop_path=spec.drop_path, **given)
    if spec.probe == "queries":
        give_queries(chain.modules)
    norms = [nn.LayerNorm(channels) for channels in chain.channels] if swin else []
    return HierarchicalEncoder(chain, semantic=build_after_stages(spec, chain.channels, num_classes), norms=norms)
