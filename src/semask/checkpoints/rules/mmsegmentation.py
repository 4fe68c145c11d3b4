"""The layout of mmsegmentation's baselines: FCN, PSPNet, DeepLabV3+, UPerNet, CCNet, PSANet, OCRNet, Semantic FPN.

The auxiliary head of a file is left out where the recipe has none. mmsegmentation's own Swin merges patches at the end
of a stage and reads the four neighbours of every channel together; the original Swin, like ours, reads all channels of
one neighbour, then those of the next.

Source: mmsegmentation 1.2.2; the layouts are spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from semask.checkpoints.rules import swin
from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import Recipe

LAYOUT = "mmsegmentation's"
PREFIX = "backbone."

_STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}
_OWN_SWIN: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\.projection\.", "encoder.chain.patch_embed.proj."),
    (r"backbone\.patch_embed\.norm\.", "encoder.chain.patch_embed.norm."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.", r"encoder.chain.layers_\1.blocks.\2.attn."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.", r"encoder.chain.layers_\1.blocks.\2.mlp.fc1."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.", r"encoder.chain.layers_\1.blocks.\2.mlp.fc2."),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.", r"encoder.chain.layers_\1.blocks.\2."),
    (r"backbone\.norm(\d)\.", r"encoder.norms.\1."),
)

_AUXILIARY = "auxiliary_head."
_HEAD = r"decode_head\."
# one table for all heads: a name means the same wherever it occurs
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
    # all other heads
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


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a Semantic FPN has one of mmsegmentation's own backbones, not that of SeMask's authors."""
    return is_own_swin(tensors) or any(key.startswith(("backbone.layer1.", "neck.")) for key in tensors)


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names and shapes; the recipe stays."""
    rename_backbone = _backbone_of(tensors)
    supervised = getattr(recipe.model.decoder, "auxiliary", False)
    ours = names_in_file(tensors, lambda key: rename(key, rename_backbone, supervised=supervised))
    own_swin = is_own_swin(tensors)
    found = {name: merged_as_originally(key, tensors[key]) if own_swin else tensors[key] for name, key in ours.items()}
    return Translation(found, tensors, ours, recipe, f"{LAYOUT} {recipe.model.decoder.kind}")


def rename(key: str, rename_backbone: Callable[[str], str], *, supervised: bool) -> str | None:
    """Our name of a published tensor, None for one that is not needed, the key itself when unknown."""
    if swin.is_derived(key) or (key.startswith(_AUXILIARY) and not supervised):
        return None
    if key.startswith(PREFIX):
        return rename_backbone(key)
    name = replace_beginning(key, _RENAMES)
    if name is None:
        return key
    # with an auxiliary head, our decoder is a pair: main and heads
    beside = name.startswith("decoder.heads.")
    return name.replace("decoder.", "decoder.main.", 1) if supervised and not beside else name


def _backbone_of(tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    if is_own_swin(tensors):
        return rename_swin
    if any(key.startswith("backbone.layers.") for key in tensors):
        return lambda key: swin.rename(key) or key  # the original Swin, whose authors published UPerNets
    hrnet = any(key.startswith("backbone.transition1.") for key in tensors)
    return (lambda key: f"encoder.{key}") if hrnet else rename_resnet


def is_own_swin(keys: Iterable[str]) -> bool:
    """Whether the names are of mmsegmentation's own Swin."""
    return any(key.startswith("backbone.stages.") and ".w_msa." in key for key in keys)


def rename_swin(key: str) -> str:
    """Our name of a tensor of mmsegmentation's Swin, the key itself when unknown."""
    # timm merges patches at the start of the next stage
    if match := re.match(r"backbone\.stages\.(\d)\.downsample\.(.*)", key):
        return f"encoder.chain.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    return replace_beginning(key, _OWN_SWIN) or key


def rename_resnet(key: str) -> str:
    """Our name of a tensor of ResNet or ResNeSt, whose deep stem is numbered through."""
    match = re.match(r"backbone\.stem\.(\d)\.(.*)", key)
    if match and match[1] in _STEM:
        return f"encoder.chain.{_STEM[match[1]]}.{match[2]}"
    return f"encoder.chain.{key.removeprefix(PREFIX)}"


def merged_as_originally(key: str, value: Tensor) -> Tensor:
    """Weights of patch merging, with (channel, row, column) on the last axis, in the order (column, row, channel)."""
    if ".downsample." not in key or not value.ndim or value.shape[-1] % 4:
        return value
    merged: Tensor = value.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
    return merged
