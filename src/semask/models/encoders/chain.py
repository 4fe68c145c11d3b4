"""A timm backbone as an ordered chain of modules with four outputs, fine to coarse."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import timm
from timm.layers import Format
from timm.models import FeatureListNet
from timm.models.xception_aligned import XceptionAligned
from torch import nn

from semask.models.encoders.dense import divide_sizes, make_dense
from semask.models.encoders.fixed_size import check_size, size_of_images, size_options
from semask.models.encoders.staged import STAGES, Staged, StagedHiera, StagedHieraDet, StagedMViT, StagedTwins

NUM_STAGES = 4
_SWIN = "timm.models.swin_transformer"
_SWIN_V2 = "timm.models.swin_transformer_v2"
_DENSE = (_SWIN, _SWIN_V2)
"""Families whose blocks are replaced by such as take maps of any size."""
_XCEPTION = "timm.models.xception_aligned"
# These families bring feature networks of their own, but are plain chains when timm is asked for one.
_CHAINS_ON_REQUEST = ("timm.models.efficientnet", "timm.models.mobilenetv3")
# Maps that unpadded convolutions made smaller than their stride says, or lists of maps between modules.
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
_DILATED = ("timm.models.resnet", "timm.models.resnest", _XCEPTION)
"""Families that can be dilated; their maps are of ⌈side / stride⌉ for images of any size."""


_COLOUR_ONLY = ("timm.models.csatv2",)
"""Families that normalise images themselves, as RGB."""


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
    """Say whether a timm name is a first-generation Swin Transformer."""
    return family_of(name) == _SWIN


def is_dilatable(name: str) -> bool:
    """Say whether a timm name is a backbone that can dilate its last stages: ResNet, ResNeSt or aligned Xception."""
    return family_of(name) in _DILATED


def family_of(name: str) -> str:
    """Return the timm module that defines a model; a ValueError names near ones when there is none."""
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
    `output_stride` of ResNet's kind. A family without four stages to run one by one, and one that does not take the
    size, raises a ValueError.
    """
    family = family_of(name)
    check_size(name, family, size)
    if family in _COLOUR_ONLY and in_channels != 3:
        raise ValueError(
            f"{name!r} normalises its images as RGB and takes no {in_channels} channels; say --data.channels 3, or "
            "choose another backbone"
        )
    options |= size_options(family, size) | {"in_chans": in_channels}
    only = size_of_images(name, family, size)
    if family in _STAGED:
        return _staged_chain(_STAGED[family], _create(name, drop_path, {"num_classes": 0, **options}), only)
    if family == _XCEPTION:
        return _xception_chain(_create(name, drop_path, {"num_classes": 0, **options}))
    if family == _SWIN:
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
    if family in _DENSE:
        make_dense(network)
    divide_sizes(network)
    strides = tuple(network.feature_info.reduction()[-NUM_STAGES:])
    return Chain(
        modules=nn.ModuleDict(network.items()),
        outputs=tuple(network.return_layers)[-NUM_STAGES:],
        channels=tuple(network.feature_info.channels()[-NUM_STAGES:]),
        strides=strides,
        channels_last=network.output_fmt == Format.NHWC,
        size_multiple=1 if family in _DENSE or _rounds_up(family, network) else int(strides[-1]),
        fixed_size=only,
    )


def _rounds_up(family: str, network: nn.Module) -> bool:
    """Say whether maps are of ⌈side / stride⌉; means taken for anti-aliasing leave the last row of an odd side out."""
    blurred = any(isinstance(getattr(module, "aa", None), nn.AvgPool2d) for module in network.modules())
    return family in _DILATED and not blurred


def _staged_chain(staged: Callable[[Any], Staged], network: Any, fixed_size: tuple[int, int] | None) -> Chain:
    modules = staged(network)
    strides = tuple(int(stage["reduction"]) for stage in network.feature_info)
    return Chain(
        modules=modules,
        outputs=STAGES,
        channels=tuple(int(stage["num_chs"]) for stage in network.feature_info),
        strides=strides,
        channels_last=modules.channels_last,
        size_multiple=strides[-1],
        fixed_size=fixed_size,
    )


def _xception_chain(network: XceptionAligned) -> Chain:
    """Return Xception's blocks as a chain; a stage ends before the block that halves the map, or would, undilated."""
    blocks = {f"blocks_{index}": block for index, block in enumerate(network.blocks)}
    ends = [f"blocks_{end - 1}" for end in network.feature_ends[1:-1]] + [f"blocks_{network.feature_ends[-1]}"]
    return Chain(
        modules=nn.ModuleDict({"stem": network.stem, **blocks}),
        outputs=tuple(ends),
        channels=tuple(int(blocks[end].out_channels) for end in ends),
        strides=tuple(int(tap["reduction"]) for tap in network.feature_info[1:]),
        channels_last=False,
        size_multiple=1,
    )


def _create(name: str, drop_path: float, options: dict[str, Any]) -> Any:
    """Build timm's network; the rate is always said, since some families have a default that is not 0."""
    bare = name.split(".", 1)[0]
    try:
        return timm.create_model(bare, drop_path_rate=drop_path, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
    if drop_path:
        raise ValueError(f"{name!r} has no stochastic depth, not {drop_path}; say --model.encoder.drop-path 0")
    return timm.create_model(bare, **options)
