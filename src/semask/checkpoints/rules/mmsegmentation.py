"""The layout of mmsegmentation's baselines: FCN, PSPNet, DeepLabV3+, UPerNet, CCNet, PSANet, OCRNet, Semantic FPN.

The auxiliary head of a file is left out where the recipe has none.

Source: mmsegmentation 1.2.2; the layouts are spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from semask.checkpoints.rules import mmsegmentation_backbones as backbones
from semask.checkpoints.rules import swin
from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import Recipe

LAYOUT = "mmsegmentation's"

_AUXILIARY = "auxiliary_head."
_HEAD = r"decode_head\."
# One table for all heads: a name means the same wherever it occurs.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"auxiliary_head\.convs\.0\.", "decoder.heads.0.conv."),
    (r"auxiliary_head\.conv_seg\.", "decoder.heads.0.classify."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"decoder.neck.laterals.\1."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"decoder.neck.outputs.\1."),
    # OCRNet's cascade
    (r"decode_head\.0\.convs\.0\.", "decoder.coarse."),
    (r"decode_head\.0\.conv_seg\.", "decoder.classify_coarse."),
    (r"decode_head\.1\.object_context_block\.(query|key)_project\.", r"decoder.context.\1."),
    (r"decode_head\.1\.object_context_block\.value_project\.", "decoder.context.value."),
    (r"decode_head\.1\.object_context_block\.out_project\.", "decoder.context.project."),
    (r"decode_head\.1\.object_context_block\.bottleneck\.", "decoder.context.fuse."),
    (r"decode_head\.1\.conv_seg\.", "decoder.classify."),
    (r"decode_head\.1\.", "decoder."),
    # the others'
    (rf"{_HEAD}conv_seg\.", "decoder.classify."),
    (rf"{_HEAD}scale_heads\.", "decoder.branches."),
    (rf"{_HEAD}(conv_cat|fpn_bottleneck)\.", "decoder.fuse."),
    (rf"{_HEAD}psp_modules\.(\d)\.1\.", r"decoder.pooling.levels.\1."),
    (rf"{_HEAD}lateral_convs\.", "decoder.laterals."),
    (rf"{_HEAD}fpn_convs\.", "decoder.outputs."),
    (rf"{_HEAD}cca\.gamma\.scale$", "decoder.attention.gain"),
    (rf"{_HEAD}cca\.(query|key|value)_conv\.", r"decoder.attention.\1."),
    (rf"{_HEAD}reduce\.", "decoder.collect.reduce."),
    (rf"{_HEAD}attention\.0\.", "decoder.collect.hidden."),
    (rf"{_HEAD}attention\.1\.", "decoder.collect.scores."),
    (rf"{_HEAD}reduce_p\.", "decoder.distribute.reduce."),
    (rf"{_HEAD}attention_p\.0\.", "decoder.distribute.hidden."),
    (rf"{_HEAD}attention_p\.1\.", "decoder.distribute.scores."),
    (rf"{_HEAD}proj\.", "decoder.project."),
    (rf"{_HEAD}image_pool\.1\.", "decoder.aspp.mean."),
    (rf"{_HEAD}aspp_modules\.(\d)\.(depth|point)wise_conv\.", r"decoder.aspp.branches.\1.\2wise."),
    (rf"{_HEAD}aspp_modules\.0\.", "decoder.aspp.branches.0."),
    (rf"{_HEAD}c1_bottleneck\.", "decoder.narrow."),
    (rf"{_HEAD}sep_bottleneck\.(\d)\.(depth|point)wise_conv\.", r"decoder.refine.\1.\2wise."),
    (_HEAD, "decoder."),
)

CLASS_TENSORS = re.compile(r"decoder\.((main\.)?classify(_coarse)?|heads\.0\.classify)\.(weight|bias)")
"""Our tensors whose first axis is the classes."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether a file of Semantic FPN is of mmsegmentation's own backbones, not of the authors of SeMask."""
    return backbones.is_swin(tensors) or any(key.startswith(("backbone.layer1.", "neck.")) for key in tensors)


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names and shapes; the recipe stays."""
    rename_backbone = _backbone_of(tensors)
    supervised = getattr(recipe.model.decoder, "auxiliary", False)
    ours = names_in_file(tensors, lambda key: rename(key, rename_backbone, supervised=supervised))
    own_swin = backbones.is_swin(tensors)
    found = {
        name: backbones.merged_as_originally(key, tensors[key]) if own_swin else tensors[key]
        for name, key in ours.items()
    }
    return Translation(found, tensors, ours, recipe, f"{LAYOUT} {recipe.model.decoder.kind}")


def rename(key: str, rename_backbone: Callable[[str], str], *, supervised: bool) -> str | None:
    """Return our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if swin.is_derived(key) or (key.startswith(_AUXILIARY) and not supervised):
        return None
    if key.startswith(backbones.PREFIX):
        return rename_backbone(key)
    name = replace_beginning(key, _RENAMES)
    if name is None:
        return key
    beside = name.startswith("decoder.heads.")
    return name.replace("decoder.", "decoder.main.", 1) if supervised and not beside else name


def _backbone_of(tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    if backbones.is_swin(tensors):
        return backbones.rename_swin
    if any(key.startswith("backbone.layers.") for key in tensors):
        return lambda key: swin.rename(key) or key  # the original Swin, whose authors published UPerNets
    return backbones.rename_hrnet if backbones.is_hrnet(tensors) else backbones.rename_resnet
