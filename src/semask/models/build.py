"""Every architecture on one page: from options to encoders and decoders, and from a recipe to the model.

`ENCODERS` and `DECODERS` are the menus: a builder for each kind of options in `semask.recipes`. A decoder's builder
gets the encoder, which has the sizes: `channels` and `strides` of its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from semask.data.readers.raster import check_channels
from semask.models.decoders.ccnet import CCNet
from semask.models.decoders.deeplab import DeepLabV3Plus
from semask.models.decoders.fcn import FCN, FCNHead, WithAuxiliaryHeads
from semask.models.decoders.mask2former import Mask2FormerPredictor
from semask.models.decoders.maskformer import MaskClassifier, MaskFormerPredictor
from semask.models.decoders.ocr import OCR
from semask.models.decoders.psanet import PSANet
from semask.models.decoders.pspnet import PSPNet
from semask.models.decoders.segformer import SegFormer
from semask.models.decoders.segmenter import MaskTransformer, SegmenterLinear, SingleScale
from semask.models.decoders.semantic_fpn import SemanticFPN
from semask.models.decoders.setr import SETR, SETRMLA, SETRHead
from semask.models.decoders.upernet import UPerNet
from semask.models.encoders.chain import timm_chain
from semask.models.encoders.hierarchical import HierarchicalEncoder, Probe
from semask.models.encoders.hrnet import HRNetEncoder, PolarizedSelfAttention, stage_channels, timm_hrnet
from semask.models.encoders.kinds import kind_of
from semask.models.encoders.mix_transformer import mix_transformer, size_of
from semask.models.encoders.simple_pyramid import DOUBLINGS, WIDTH, SimplePyramidEncoder
from semask.models.encoders.swin import return_queries
from semask.models.encoders.vit import ViTEncoder, timm_vit
from semask.models.layers.semantic import SemanticAttention, SemanticLayer
from semask.models.meta import on_meta_device, skip_init
from semask.models.model import SegmentationModel
from semask.models.pixel_decoders.fpn import FPN, AlignedLevel, Level
from semask.models.pixel_decoders.msdeform import MSDeform
from semask.recipes import Recipe, get_recipe
from semask.recipes.checks import check_model
from semask.recipes.decoders import MASK_CLASSIFIERS, DecoderOptions
from semask.recipes.encoders import AfterStage, EncoderOptions, PyramidViTOptions, StageProbe
from semask.recipes.recipe import DataRecipe
from semask.structures import Decoder, Encoder

# ---- models ----


def build(recipe: str | Recipe, num_classes: int | None = None) -> SegmentationModel:
    """The model of a recipe, given by value or by name, with random weights and in evaluation mode.

    Args:
        recipe: A name of `semask.list_recipes()`, or a recipe.
        num_classes: Replaces the recipe's.

    Raises:
        ValueError: The name is unknown, or the parts of the recipe do not fit.

    >>> import semask, torch
    >>> model = semask.build("scenes/semask-micro-fpn", num_classes=4)
    >>> model.scores(torch.rand(1, 3, 65, 90)).shape
    torch.Size([1, 4, 65, 90])
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = recipe if num_classes is None else recipe.override({"model.num_classes": num_classes})
    spec, data = recipe.model, recipe.data
    check_model(spec)
    check_channels(data, spec.mean, spec.std)
    encoder = build_encoder(spec.encoder, spec.num_classes, crop=data.crop, channels=data.channels)
    decoder = build_decoder(spec.decoder, encoder, spec.num_classes)
    statistics = {"mean": spec.mean, "std": spec.std}
    return SegmentationModel(encoder, decoder, num_classes=spec.num_classes, **statistics, recipe=recipe).eval()


def build_on_meta(recipe: Recipe) -> SegmentationModel:
    """The model of a recipe on the meta device: modules and shapes, which take no memory, and no values."""
    with on_meta_device():
        return build(recipe)


def build_without_init(recipe: Recipe) -> SegmentationModel:
    """The model of a recipe whose parameters have shapes alone where that is possible: values come from a file."""
    try:
        with skip_init():
            model = build(recipe)
        if not any(buffer.is_meta for buffer in model.buffers()):
            return model
    except RuntimeError:  # timm's Swin V2 computes buffers on the device that its parameters are on
        pass
    return build(recipe)


# ---- encoders ----


def build_encoder(
    options: EncoderOptions, num_classes: int, *, crop: tuple[int, int] = DataRecipe.crop, channels: int = 3
) -> Encoder:
    """The backbone for images of `channels`, with semantic layers for `num_classes` if its options have some.

    `crop` (height, width) [px] is the size that families of a fixed size are built for, unless the options have one.
    """
    fitting = kind_of(options.name, pyramid=isinstance(options, PyramidViTOptions))
    if type(options) is not fitting:
        raise ValueError(
            f"{options.name!r} is a {fitting.kind} and its options are of a {options.kind}; change the kind of encoder "
            f"with --encoder {options.name}"
        )
    return ENCODERS[options.kind](options, num_classes, crop, channels)


def _hierarchical(options: Any, classes: int, crop: tuple[int, int], channels: int) -> Encoder:
    """Backbones of four stages, run one by one."""
    shared: dict[str, Any] = {"drop_path": options.drop_path, "in_channels": channels}
    if options.kind == "mix_transformer":
        own = {"norm_eps": options.norm_eps, "semantic_place": options.semantic_place}
        chain = mix_transformer(size_of(options.name), **own, **shared)
    else:
        size = getattr(options, "image_size", None) or crop
        # the named model's own values unless the options have others
        names = ("embed_dim", "depths", "num_heads", "window_size", "output_stride")
        own = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
        chain = timm_chain(options.name, size=size, **shared, **own)
    if isinstance(options.semantic, StageProbe) and options.semantic.reads == "queries":
        return_queries(chain.modules)
    norms = [nn.LayerNorm(width) for width in chain.channels] if options.kind == "swin" else []
    return HierarchicalEncoder(chain, semantic=_after_stages(options.semantic, chain.channels, classes), norms=norms)


def _hrnet(options: Any, classes: int, _: tuple[int, int], channels: int) -> Encoder:
    attention = PolarizedSelfAttention if options.polarized_attention else None
    backbone = timm_hrnet(options.name, attention=attention, in_channels=channels)
    return HRNetEncoder(backbone, semantic=_after_stages(options.semantic, stage_channels(backbone), classes))


def _vit(options: Any, classes: int, _: tuple[int, int], channels: int) -> Encoder:
    names = ("drop_path", "dropout", "image_size", "patch_size", "norm_eps")
    backbone = timm_vit(options.name, in_channels=channels, **{name: getattr(options, name) for name in names})
    layers = getattr(options, "out_layers", None)
    how = {"position_resize": options.position_resize, "class_token": options.class_token}
    vit = ViTEncoder(backbone, out_layers=layers, **how)
    if options.kind == "vit":
        return vit
    return SimplePyramidEncoder(vit, semantic=_after_stages(options.semantic, (WIDTH,) * len(DOUBLINGS), classes))


ENCODERS: dict[str, Callable[[Any, int, tuple[int, int], int], Encoder]] = {
    **dict.fromkeys(("stages", "swin", "fixed_size", "dilatable", "mix_transformer"), _hierarchical),
    "hrnet": _hrnet,
    **dict.fromkeys(("vit", "pyramid_vit"), _vit),
}
"""Builders by the kind of options: (options, classes, crop, image channels) to the encoder."""

# ---- semantic layers ----


def _after_stages(options: AfterStage, widths: Sequence[int], num_classes: int) -> list[nn.Module]:
    """One module per stage, of the stages' widths, or none."""
    if options is None:
        return []
    if isinstance(options, StageProbe):
        return [Probe(width, num_classes, queries=options.reads == "queries") for width in widths]
    attention = partial(
        SemanticAttention,
        num_classes=num_classes if options.attention == "semantic" else None,
        dropout=options.dropout,
        learned_gain=options.gain == "learned",
        dead_init=options.dead_init,
    )
    layer = partial(SemanticLayer, residual=options.residual)
    return [
        layer(width, [attention(width) for _ in shifts], window_size=window, shifts=shifts)
        for width, window, shifts in zip(widths, options.windows, options.shifts(), strict=True)
    ]


# ---- decoders ----


def build_decoder(options: DecoderOptions, encoder: Encoder, num_classes: int) -> Decoder:
    """The decoder over an encoder's maps, of which it reads `channels` and `strides`.

    Raises:
        ValueError: The decoder needs other maps than the encoder's.
    """
    return DECODERS[options.kind](options, encoder, num_classes)


def _supervised(options: Any, encoder: Encoder, num_classes: int) -> Decoder:
    """The baselines with a fully convolutional auxiliary head on the last map but one."""
    own: dict[str, Any] = {}
    if options.kind == "deeplabv3plus":
        # dilations of 96, 192 and 288 px of the image: 6 … 18 cells at stride 16, 12 … 36 at stride 8
        own = {"dilations": [96 * step // encoder.strides[-1] for step in (1, 2, 3)]}
    elif options.kind == "psanet":
        own = {"window_size": options.window_size}
    main = BASELINES[options.kind](**_pixel(options, encoder, num_classes), **own)
    if not options.auxiliary:
        return main
    head = FCNHead(encoder.channels[2], num_classes=num_classes, dropout=options.dropout)
    return WithAuxiliaryHeads(main, [head], levels=[2])


def _setr(options: Any, encoder: Encoder, num_classes: int) -> Decoder:
    channels, width = encoder.channels, _width(options, encoder)
    if len(channels) == 1 or len({*encoder.strides}) > 1:
        raise ValueError(
            f"{options.kind} reads several maps of one stride, and this encoder's have the strides {encoder.strides}; "
            "take a plain ViT and name its layers, such as --model.encoder.out-layers 6 12 18 24"
        )
    if options.kind == "setr_mla":
        return SETRMLA(channels, num_classes=num_classes, channels=width, auxiliary=options.auxiliary)
    naive = options.kind == "setr_naive"
    sizes = {"kernel_size": 1, "steps": 1, "factor": 4} if naive else {"kernel_size": 3, "steps": 4, "factor": 2}
    decoder = SETR(SETRHead(channels[-1], num_classes=num_classes, channels=width, **sizes))
    if not options.auxiliary:
        return decoder
    sizes = {"kernel_size": 1 if naive else 3, "steps": 2, "factor": 4}
    heads = [SETRHead(deep, num_classes=num_classes, channels=width, **sizes) for deep in channels[:-1]]
    return WithAuxiliaryHeads(decoder, heads, levels=range(len(heads)))


def _mask_classifier(options: Any, encoder: Encoder, num_classes: int) -> Decoder:
    """MaskFormer, and Mask2Former also over FaPN's pixel decoders."""
    shared = {"width": _width(options, encoder), "num_heads": options.heads}
    queries = {
        "num_classes": num_classes,
        "queries": options.queries,
        "layers": options.layers,
        "hidden": options.feedforward,
        "dropout": options.dropout,
    }
    if options.kind == "maskformer":
        predictor: nn.Module = MaskFormerPredictor(encoder.channels[-1], **queries, **shared)
    else:
        predictor = Mask2FormerPredictor(**queries, **shared)
    # levels that are merged or aligned, under deformable attention or not
    own, width, channels = options.pixel_decoder, shared["width"], _pyramid(options, encoder)
    level: Callable[[int, int], nn.Module] = Level
    if own.kind in ("fapn", "msfapn"):
        level = partial(AlignedLevel, feature_selection=own.feature_selection)
    if own.kind in ("fpn", "fapn"):
        pixels: nn.Module = FPN(channels, [level(fine, width) for fine in channels[:-1]], width=width)
    else:
        pixels = MSDeform(channels, level(channels[0], width), layers=own.layers, hidden=own.feedforward, **shared)
    return MaskClassifier(pixels, predictor)


BASELINES: dict[str, Callable[..., nn.Module]] = {
    "fcn": FCN,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "upernet": UPerNet,
    "ccnet": CCNet,
    "psanet": PSANet,
}
"""Decoders of the papers' comparisons that can have an auxiliary head."""
DECODERS: dict[str, Callable[[Any, Encoder, int], Decoder]] = {
    "semantic_fpn": lambda options, *sizes: SemanticFPN(**_pixel(options, *sizes), neck=options.neck),
    "segformer": lambda options, *sizes: SegFormer(**_pixel(options, *sizes)),
    "segformer_mmseg": lambda options, *sizes: SegFormer(**_pixel(options, *sizes), form="mmsegmentation"),
    "ocr": lambda options, *sizes: OCR(**_pixel(options, *sizes)),
    **dict.fromkeys(BASELINES, _supervised),
    **dict.fromkeys(("setr_naive", "setr_pup", "setr_mla"), _setr),
    "segmenter_linear": lambda options, encoder, classes: SegmenterLinear(
        _single_scale(options, encoder), num_classes=classes
    ),
    "segmenter_mask": lambda options, encoder, classes: MaskTransformer(
        _single_scale(options, encoder),
        num_classes=classes,
        width=options.channels,
        layers=options.layers,
        dropout=options.dropout,
        drop_path=options.drop_path,
    ),
    **dict.fromkeys(MASK_CLASSIFIERS, _mask_classifier),
}
"""Builders by the kind of options: (options, encoder, classes) to the decoder."""


def _pixel(options: Any, encoder: Encoder, num_classes: int) -> dict[str, Any]:
    """Arguments that decoders of a pyramid share."""
    return {
        "in_channels": _pyramid(options, encoder),
        "num_classes": num_classes,
        "channels": _width(options, encoder),
        "dropout": options.dropout,
    }


def _width(options: Any, encoder: Encoder) -> int:
    return encoder.channels[0] if options.channels is None else options.channels


def _pyramid(options: Any, encoder: Encoder) -> Sequence[int]:
    if len({*encoder.strides}) == 1:
        raise ValueError(
            f"{options.kind} reads a pyramid of maps, and this encoder's have the one stride {encoder.strides[0]}; use "
            "--encoder with a hierarchical backbone or a ViT with a simple pyramid, or --decoder segmenter_mask"
        )
    return encoder.channels


def _single_scale(options: Any, encoder: Encoder) -> SingleScale:
    return SingleScale(encoder.channels, encoder.strides, source=options.single_scale, width=options.channels)
