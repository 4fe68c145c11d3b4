"""Pretrained weights of encoders: loading them, counting the tensors that they fill, and their licences."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch.nn.functional as F
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import Tensor, nn

from semask.checkpoints.rules.mix_transformer import chain_tensors
from semask.checkpoints.safe_load import read_checkpoint, tensors_of
from semask.models.encoders.chain import family_of, is_swin
from semask.models.encoders.hierarchical import HierarchicalEncoder
from semask.models.encoders.hrnet import ATTENTION, HRNetEncoder
from semask.models.encoders.mix_transformer import is_mit
from semask.models.encoders.simple_pyramid import SimplePyramidEncoder
from semask.models.encoders.staged import StagedHiera
from semask.models.encoders.vit import ViTEncoder, resize_positions
from semask.models.meta import on_meta_device

MIN_SHARE = 0.95
FROM_HUB = "timm"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_TIMEOUT = 10.0
"""Longest wait for the hub's first answer [s]."""
MIT_LICENCE = "NVIDIA Source Code License, non-commercial"
"""Licence of SegFormer's Mix Transformers, which users download by hand."""
_BIAS_TABLE = "relative_position_bias_table"


class MatchReport(NamedTuple):
    """Numbers of filled tensors and of all tensors of a backbone, and the names of missing ones."""

    source: str
    matched: int
    total: int
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Filled tensors over all tensors of the backbone, 0 … 1."""
        return self.matched / self.total

    def __str__(self) -> str:
        return f"{self.source}: {self.matched} of {self.total} encoder tensors matched ({self.share:.1%})"


def load_encoder(
    encoder: HierarchicalEncoder | HRNetEncoder | ViTEncoder | SimplePyramidEncoder, name: str, weights: str
) -> MatchReport:
    """Fill an encoder's backbone, in place, from timm's hub ("timm") or from a local file.

    Semantic layers, output norms and the levels of a simple pyramid are not part of the backbone and start fresh;
    tables of positions take the encoder's size, and the first layer takes the image's channels.

    Raises:
        ValueError: The weights cannot be read, or fewer than 95 % of the tensors match; nothing is loaded then.
    """
    # a simple pyramid wraps a plain ViT
    if isinstance(encoder, SimplePyramidEncoder):
        return load_encoder(encoder.plain, name, weights)
    # read, and bring names and sizes into the backbone's
    source = _hub_tensors(name) if weights == FROM_HUB else _file_tensors(name, weights)
    backbone = encoder.chain if isinstance(encoder, HierarchicalEncoder) else encoder.backbone
    found = _for_chain(source, backbone) if isinstance(backbone, nn.ModuleDict) else dict(source)
    _fit_positions(found, encoder)
    wanted = backbone.state_dict()
    # convolutions that read RGB read the channels of the backbone's images
    for key, tensor in wanted.items():
        given = found.get(key)
        if given is None or given.ndim != 4 or tensor.ndim != 4 or given.shape[1] != 3 or tensor.shape[1] == 3:
            continue
        if (given.shape[0], *given.shape[2:]) == (tensor.shape[0], *tensor.shape[2:]):
            found[key] = inflate(given, tensor.shape[1])
    # no published weights hold the attention added to HRNet
    if isinstance(encoder, HRNetEncoder):
        wanted = {key: tensor for key, tensor in wanted.items() if ATTENTION not in key}
    usable = {key: found[key] for key, tensor in wanted.items() if key in found and found[key].shape == tensor.shape}
    missing = tuple(key for key in wanted if key not in usable)
    # nothing is loaded from weights of another network
    report = MatchReport(name if weights == FROM_HUB else weights, len(usable), len(wanted), missing)
    if report.share < MIN_SHARE:
        raise ValueError(
            f"{report}; at least {MIN_SHARE:.0%} are needed. Missing or of another shape: {', '.join(missing[:6])} …; "
            f"the file's own keys look like {', '.join(list(source)[:3])}. Are these weights of {name!r}?"
        )
    backbone.load_state_dict(usable, strict=False)
    return report


def check_normalisation(name: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse image statistics other than those of the training of timm's weights.

    Raises:
        ValueError: The statistics of RGB images differ; other channels have no reference.
    """
    known = timm.get_pretrained_cfg(name)
    if known is None or len(known.mean) != len(mean):
        return
    pairs = zip((*known.mean, *known.std), (*mean, *std), strict=True)
    if all(abs(a - b) < 0.01 for a, b in pairs):
        return
    theirs, ours = (
        [" ".join(f"{v:g}" for v in values) for values in pair] for pair in ((known.mean, known.std), (mean, std))
    )
    raise ValueError(
        f"{name!r} was trained on images normalised with mean {theirs[0]} and std {theirs[1]}, the recipe has "
        f"mean {ours[0]} and std {ours[1]}. Use --model.mean {theirs[0]} --model.std {theirs[1]}."
    )


def licence_of(name: str, weights: str | None) -> str | None:
    """Licence of an encoder's weights by timm's statement; None where a recipe starts from none."""
    if weights is None:
        return None
    if is_mit(name):
        return MIT_LICENCE
    known = timm.get_pretrained_cfg(name)
    stated = None if known is None else known.license
    return str(stated) if stated else "not stated by timm"


def _hub_tensors(name: str) -> dict[str, Tensor]:
    hint = "give a local file with --model.encoder.weights PATH, or use --from-scratch to train without them"
    if is_mit(name):
        raise ValueError(
            f"timm has no weights of {name!r}: {hint}; SegFormer's authors', transformers' or mmsegmentation's"
        )
    try:
        _reach_hub(name)
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:
        # offline, an unknown name or a moved file: the hub's errors have no common class
        raise ValueError(
            f"the pretrained weights of {name!r} could not be fetched ({type(error).__name__}: {error}); {hint}"
        ) from error


def _reach_hub(name: str) -> None:
    """Ask the hub once, unless it has been asked before: a download without network would be tried for a minute."""
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return
    repository, _, revision = known.hf_hub_id.partition("@")
    files = (known.hf_hub_filename,) if known.hf_hub_filename else HUB_FILES
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision or None), timeout=HUB_TIMEOUT)
    except HfHubHTTPError:
        return  # an answer, if only that there is no such file


def _file_tensors(name: str, path: str) -> dict[str, Tensor]:
    tensors = tensors_of(read_checkpoint(path))
    if is_mit(name):
        return {ours: piece for key, value in tensors.items() for ours, piece in chain_tensors(key, value)}
    if is_swin(name):
        if "layers.0.downsample.reduction.weight" not in tensors:
            return tensors
        # the official layout merges patches at the end of a stage, timm's at the start of the next
        merge = re.compile(r"^layers\.(\d+)\.downsample\.")
        return {merge.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", k): value for k, value in tensors.items()}
    # timm's own filter of the authors' files, which reads names and sizes of a model
    adapt = getattr(sys.modules[family_of(name)], "checkpoint_filter_fn", None)
    if adapt is None:
        return tensors
    with on_meta_device():
        model = timm.create_model(name.split(".", 1)[0], pretrained=False)
    adapted: dict[str, Tensor] = adapt(tensors, model)
    return adapted


def _for_chain(source: dict[str, Tensor], chain: nn.ModuleDict) -> dict[str, Tensor]:
    """Rename timm's keys to a chain's, whose children are called `layers_0` where timm has `layers.0`."""
    renamed: dict[str, Tensor] = {}
    for child in chain:
        # timm has a dot for one underscore of the name; others may belong to the name
        nested = [f"{child[:place]}.{child[place + 1 :]}" for place, letter in enumerate(child) if letter == "_"]
        prefix = next((name for name in nested if any(key.startswith(f"{name}.") for key in source)), child)
        start = len(prefix) + 1
        renamed |= {f"{child}.{key[start:]}": value for key, value in source.items() if key.startswith(f"{prefix}.")}
    return renamed


def _fit_positions(found: dict[str, Tensor], encoder: HierarchicalEncoder | HRNetEncoder | ViTEncoder) -> None:
    """Resize tables of positions of another window or image size, in place.

    Source: SeMask's authors' code, loading of ImageNet Swin weights: relative ones bicubic per head.
    """
    table = found.get("pos_embed")
    # absolute positions of a plain ViT
    if isinstance(encoder, ViTEncoder):
        vit = encoder.backbone
        if table is None or table.ndim != 3 or vit.pos_embed is None or table.shape[1] == vit.pos_embed.shape[1]:
            return
        grid, extra = vit.patch_embed.grid_size, 0 if vit.no_embed_class else vit.num_prefix_tokens
        if encoder.position_resize is None:
            found["pos_embed"] = resample_abs_pos_embed(table, list(grid), num_prefix_tokens=extra)
        else:
            found["pos_embed"] = resize_positions(table, grid, num_extra=extra, mode=encoder.position_resize)
        return
    # relative positions of windows, then absolute ones of Hiera
    chain = encoder.chain if isinstance(encoder, HierarchicalEncoder) else encoder.backbone
    for name, module in chain.named_modules():
        key, own = f"{name}.{_BIAS_TABLE}", getattr(module, _BIAS_TABLE, None)
        if own is not None and key in found and found[key].shape != own.shape:
            found[key] = resize_bias_table(found[key], to_2tuple(module.window_size))
    if isinstance(chain, StagedHiera) and table is not None and table.shape != chain.pos_embed.shape:
        found["pos_embed"] = resample_abs_pos_embed(table, list(chain.grid), num_prefix_tokens=0)


def inflate(weight: Float[Tensor, "o 3 h w"], channels: int) -> Float[Tensor, "o c h w"]:
    """A convolution over RGB as one over other channels, whose results are as large.

    Channels take the weights of red, green, blue, red, … in turn, scaled by 3 / channels; a single one takes their sum.
    Where all channels are alike, 1, 3, 6, … of them give RGB's result; of other counts some colours weigh more.

    Source: timm's adapt_input_conv.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def resize_bias_table(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Resize a table of relative positions, ((2M-1)², heads) or heads (2M-1) (2M-1), to that of a window h × w."""
    # as one image per head
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    old = round(table.shape[0] ** 0.5)
    grid = table if table.ndim == 3 else table.T.unflatten(1, (old, old))
    resized = F.interpolate(grid[None], size=size, mode="bicubic", align_corners=False)[0]
    return resized if table.ndim == 3 else resized.flatten(1).T.contiguous()
