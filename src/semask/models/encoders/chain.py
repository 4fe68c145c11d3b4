"""A timm backbone as an ordered chain of modules with four outputs, fine to coarse."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import timm
from timm.layers import Conv2dSame, Format
from timm.models import FeatureListNet
from torch import nn

from semask.models.encoders.staged import STAGES, Staged, StagedHiera, StagedHieraDet, StagedMViT, StagedTwins
from semask.models.encoders.swin import make_dense
from semask.models.layers.blocks import SameConvolution

NUM_STAGES = 4
SWIN, SWIN_V2 = "timm.models.swin_transformer", "timm.models.swin_transformer_v2"
_DENSE = (SWIN, SWIN_V2)
"""Families whose blocks are replaced by those for maps of any size."""
_XCEPTION = "timm.models.xception_aligned"
# Families with feature networks of their own, which are plain chains with these options of timm's.
_CHAINS_ON_REQUEST = ("timm.models.efficientnet", "timm.models.mobilenetv3")
# Maps that unpadded convolutions made smaller than by their stride, or lists of maps between modules.
_NO_CHAINS = tuple(
    f"timm.models.{name}" for name in ("inception_v3", "inception_v4", "inception_resnet_v2", "selecsls")
)
_STAGED: dict[str, Callable[[Any], Staged]] = {
    "timm.models.twins": StagedTwins,
    "timm.models.mvitv2": StagedMViT,
    "timm.models.hiera": StagedHiera,
    "timm.models.hieradet_sam2": StagedHieraDet,
}
"""Families that timm runs as one piece."""
DILATABLE = ("timm.models.resnet", "timm.models.resnest", _XCEPTION)
"""Families that can be dilated; their maps are of ⌈side / stride⌉ for images of any size."""
_COLOUR_ONLY = ("timm.models.csatv2",)
"""Families that normalise images themselves, as RGB."""
STEP = 32
"""Sides of a fixed size are multiples of this [px], the stride of the coarsest map."""
FIXED_SIZE = ("timm.models.maxxvit", "timm.models.gcvit", "timm.models.hiera", "timm.models.swin_transformer_v2_cr")
"""Families whose windows, or table of positions, are a fixed share of the image."""
_ANY_SIZE = ("timm.models.twins", "timm.models.mvitv2", "timm.models.swiftformer", SWIN, SWIN_V2)
"""Families that timm calls fixed, as classifiers, but whose maps may be of any size."""


class Chain(NamedTuple):
    """A backbone that can be run child by child.

    modules: in the order of execution. outputs: the names whose results are the stages. channels, strides: per stage.
    channels_last: the modules exchange b h w c, not b c h w. size_multiple: the model must pad images to this [px].
    semantic_after: the names whose results semantic layers mask, where these are not the outputs. fixed_size: the one
    (height, width) [px] of images that can be encoded, None for any.
    """

    modules: nn.ModuleDict | Staged
    outputs: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    channels_last: bool
    size_multiple: int
    semantic_after: tuple[str, ...] = ()
    fixed_size: tuple[int, int] | None = None


def is_swin(name: str) -> bool:
    """Return whether a timm name is a first-generation Swin Transformer."""
    return family_of(name) == SWIN


def family_of(name: str) -> str:
    """Return the timm module that defines a model.

    Raises:
        ValueError: timm has no such model; the message suggests near names.
    """
    bare = name.split(".", 1)[0]
    if not timm.is_model(bare):
        near = difflib.get_close_matches(bare, timm.list_models(), n=6, cutoff=0.5)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no model called {bare!r}{hint}. `timm.list_models()` lists them all.")
    return str(timm.model_entrypoint(bare).__module__)


def timm_chain(
    name: str, *, size: tuple[int, int] | None = None, drop_path: float = 0.0, in_channels: int = 3, **options: Any
) -> Chain:
    """Build a timm backbone with random weights, for images of `in_channels`, and return it as a chain of four stages.

    Swin and Swin V2 become those of dense prediction. `size` (height, width) [px] is what families of a fixed size are
    built for, None the named model's own. `options` go to timm's constructor: widths and depths of Swin,
    `output_stride` of ResNet's kind.

    Raises:
        ValueError: The family has no four stages to run one by one, or does not take the size or the channels.
    """
    family = family_of(name)
    # what the family cannot do
    check_size(name, family, size)
    if family in _COLOUR_ONLY and in_channels != 3:
        raise ValueError(
            f"{name!r} normalises its images as RGB and cannot take {in_channels}; use --data.channels 3, or "
            "choose another backbone"
        )
    options["in_chans"] = in_channels
    fixed = family in FIXED_SIZE
    only = (size or timm.get_pretrained_cfg(name).input_size[1:]) if fixed else None
    if size is not None and (fixed or family == SWIN_V2):
        options["img_size"] = max(size) if family == SWIN_V2 else size  # windows of Swin V2 are squares
    # networks that timm runs as one piece
    if family in _STAGED:
        network = _create(name, drop_path, {"num_classes": 0, **options})
        modules = _STAGED[family](network)
        channels, strides = (
            tuple(int(stage[key]) for stage in network.feature_info) for key in ("num_chs", "reduction")
        )
        return Chain(modules, STAGES, channels, strides, modules.channels_last, strides[-1], fixed_size=only)
    if family == _XCEPTION:
        network = _create(name, drop_path, {"num_classes": 0, **options})
        blocks = {f"blocks_{index}": block for index, block in enumerate(network.blocks)}
        # A stage ends before the block that halves the map, or would, undilated.
        numbers = [*(end - 1 for end in network.feature_ends[1:-1]), network.feature_ends[-1]]
        ends = tuple(f"blocks_{number}" for number in numbers)
        channels = tuple(int(blocks[end].out_channels) for end in ends)
        strides = tuple(int(tap["reduction"]) for tap in network.feature_info[1:])
        return Chain(nn.ModuleDict({"stem": network.stem, **blocks}), ends, channels, strides, False, 1)
    return ordered_chain(name, drop_path, options, fixed_size=only)


def ordered_chain(name: str, drop_path: float, options: dict[str, Any], *, fixed_size: tuple[int, int] | None) -> Chain:
    """Build a timm backbone whose children run one after the other; `options` go to timm's constructor.

    Raises:
        ValueError: The family has no four stages to run one by one.
    """
    family = family_of(name)
    if family == SWIN:
        options |= {"strict_img_size": False, "always_partition": True}
    if family in _CHAINS_ON_REQUEST:
        options["feature_cfg"] = {"feature_cls": "list", "flatten_sequential": True}
    network = _create(name, drop_path, {"features_only": True, **options})
    ordered = isinstance(network, FeatureListNet) and family not in _NO_CHAINS
    if not ordered or len(network.return_layers) < NUM_STAGES:
        raise ValueError(
            f"{name!r} (family {family.rsplit('.', 1)[-1]}) is no ordered chain of four stages in timm, so semantic "
            "layers cannot be put between its stages. Use a backbone that is one, such as swin, swinv2, convnext, "
            "pvt_v2, twins, mvitv2, hiera, davit, nextvit, maxvit, caformer, poolformerv2, resnet or efficientnet."
        )
    # blocks for images of any size
    if family in _DENSE:
        make_dense(network)
    for module in network.modules():
        if type(module) is Conv2dSame:
            module.__class__ = SameConvolution
    # Maps are of ⌈side / stride⌉; anti-aliasing by means drops the last row of an odd side.
    blurred = any(isinstance(getattr(module, "aa", None), nn.AvgPool2d) for module in network.modules())
    rounds_up = family in _DENSE or (family in DILATABLE and not blurred)
    strides = tuple(network.feature_info.reduction()[-NUM_STAGES:])
    return Chain(
        modules=nn.ModuleDict(network.items()),
        outputs=tuple(network.return_layers)[-NUM_STAGES:],
        channels=tuple(network.feature_info.channels()[-NUM_STAGES:]),
        strides=strides,
        channels_last=network.output_fmt == Format.NHWC,
        size_multiple=1 if rounds_up else int(strides[-1]),
        fixed_size=fixed_size,
    )


def _create(name: str, drop_path: float, options: dict[str, Any]) -> Any:
    """Build timm's network; the rate is always given, since some families have a default other than 0."""
    bare = name.split(".", 1)[0]
    try:
        return timm.create_model(bare, drop_path_rate=drop_path, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
    if drop_path:
        raise ValueError(f"{name!r} has no stochastic depth, got {drop_path}; use --model.encoder.drop-path 0")
    return timm.create_model(bare, **options)


def check_size(name: str, family: str, size: tuple[int, int] | None) -> None:
    """Refuse a size that a family of a fixed size cannot take, and families of one size that cannot be chosen."""
    if size is not None and family in FIXED_SIZE and any(side % STEP or side < STEP for side in size):
        near = " ".join(str(max(STEP, round(side / STEP) * STEP)) for side in size)
        raise ValueError(
            f"{name!r} is built for images of one size, whose sides are multiples of {STEP} px, not {size[0]} and "
            f"{size[1]}; use --data.crop {near}, or --model.encoder.image-size {near} where the crop is to be another"
        )
    # families whose one size cannot be chosen
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size and family not in (*FIXED_SIZE, *_ANY_SIZE):
        raise ValueError(
            f"{name!r} (family {family.rsplit('.', 1)[-1]}) is built for images of {known.input_size[1]}×"
            f"{known.input_size[2]} px alone and gives no pyramid for images of other sizes. Use a backbone that does, "
            "such as swin, swinv2, convnext, pvt_v2, twins, mvitv2, davit, nextvit, maxvit or hiera."
        )
