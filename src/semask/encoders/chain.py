"""A timm backbone as an ordered chain of modules with four outputs, fine to coarse."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import timm
from timm.layers import Format
from timm.models import FeatureListNet
from torch import nn

from semask.encoders.swin import make_dense

NUM_STAGES = 4
_SWIN = "timm.models.swin_transformer"
# These families bring feature networks of their own, but are plain chains when timm is asked for one.
_CHAINS_ON_REQUEST = ("timm.models.efficientnet", "timm.models.mobilenetv3")


class Chain(NamedTuple):
    """A backbone that can be run child by child.

    modules: in the order of execution. outputs: the names whose results are the stages. channels, strides: per stage.
    channels_last: the modules exchange b h w c, not b c h w. size_multiple: the model must pad images to this [px].
    semantic_after: the names whose results semantic layers mask, where these are not the outputs.
    """

    modules: nn.ModuleDict
    outputs: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    channels_last: bool
    size_multiple: int
    semantic_after: tuple[str, ...] = ()


def is_swin(name: str) -> bool:
    """Say whether a timm name is a first-generation Swin Transformer."""
    return family_of(name) == _SWIN


def family_of(name: str) -> str:
    """Return the timm module that defines a model; a ValueError names near ones when there is none."""
    bare = name.split(".", 1)[0]
    if not timm.is_model(bare):
        near = difflib.get_close_matches(bare, timm.list_models(), n=6, cutoff=0.5)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no model called {bare!r}{hint}. `timm.list_models()` lists them all.")
    return str(timm.model_entrypoint(bare).__module__)


def timm_chain(name: str, *, drop_path: float = 0.0, **options: Any) -> Chain:
    """Build a timm backbone with random weights and return it as a chain of four stages.

    Swin becomes the dense-prediction Swin. `options` go to timm's constructor (widths and depths of Swin).
    A family that timm does not run as an ordered chain raises a ValueError.
    """
    family = family_of(name)
    if family == _SWIN:
        options |= {"strict_img_size": False, "always_partition": True}
    if family in _CHAINS_ON_REQUEST:
        options["feature_cfg"] = {"feature_cls": "list", "flatten_sequential": True}
    network = _create(name.split(".", 1)[0], drop_path, options)
    if not isinstance(network, FeatureListNet) or len(network.return_layers) < NUM_STAGES:
        raise ValueError(
            f"{name!r} (family {family.rsplit('.', 1)[-1]}) is no ordered chain of four stages in timm, so semantic "
            "layers cannot be put between its stages. Use a backbone that is one, such as swin, convnext, pvt_v2, "
            "davit, nextvit, caformer, poolformer, resnet, efficientnet or mobilenetv3."
        )
    if family == _SWIN:
        make_dense(network)
    return Chain(
        modules=nn.ModuleDict(network.items()),
        outputs=tuple(network.return_layers)[-NUM_STAGES:],
        channels=tuple(network.feature_info.channels()[-NUM_STAGES:]),
        strides=tuple(network.feature_info.reduction()[-NUM_STAGES:]),
        channels_last=network.output_fmt == Format.NHWC,
        size_multiple=1 if family == _SWIN else int(network.feature_info.reduction()[-1]),
    )


def _create(name: str, drop_path: float, options: dict[str, Any]) -> nn.Module:
    """Build timm's feature network; the rate is always said, since some families have a default that is not 0."""
    try:
        return timm.create_model(name, features_only=True, drop_path_rate=drop_path, **options)  # type: ignore[no-any-return]
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
    if drop_path:
        raise ValueError(f"{name!r} has no stochastic depth; set drop_path to 0, not {drop_path}")
    return timm.create_model(name, features_only=True, **options)  # type: ignore[no-any-return]
