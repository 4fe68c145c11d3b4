"""Mix Transformer (MiT), the hierarchical encoder of SegFormer, as a chain of stages and their norms."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from semask.models.encoders.chain import NUM_STAGES, Chain
from semask.models.layers.attention import check_heads
from semask.ops.attention import attention

SemanticPlace = Literal["before_norm", "after_norm"]

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
"""Side of the square of tokens that share one key and value, per stage."""
KERNELS = (7, 3, 3, 3)
"""Side of the overlapping patches, per stage [px, then tokens of the stage before]."""
STEPS = (4, 2, 2, 2)
"""From one patch to the next."""
MLP_RATIO = 4
NORM_EPS = 1e-6
"""Epsilon of every LayerNorm, unless a recipe has another."""


class Size(NamedTuple):
    """Size of a Mix Transformer: channels and blocks per stage."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SIZES = {
    "mit_b0": Size((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": Size((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": Size((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": Size((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": Size((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": Size((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""By name. Source: SegFormer (arXiv:2105.15203), appendix, and the authors' code."""


def is_mit(name: str) -> bool:
    """Return whether a name is that of a Mix Transformer, be it of an unknown size."""
    return re.match(r"mit(_|-|b?\d)", name) is not None


def size_of(name: str) -> Size:
    """Return the size of a Mix Transformer.

    Raises:
        ValueError: There is no such name; the message suggests near ones.
    """
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=3, cutoff=0.5)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ValueError(f"no Mix Transformer called {name!r}{hint}. There are: {', '.join(SIZES)}.")
    return SIZES[name]


def mix_transformer(
    size: Size,
    *,
    drop_path: float = 0.0,
    norm_eps: float | None = None,
    semantic_place: SemanticPlace = "before_norm",
    in_channels: int = 3,
) -> Chain:
    """Return a Mix Transformer with random weights, for images of `in_channels`, as a chain `stage1, norm1, … norm4`.

    The maps are those after the norms. `semantic_place` puts a stage's semantic layer before or after its norm:
    see docs/decisions/0011.
    """
    eps = NORM_EPS if norm_eps is None else norm_eps
    count = sum(size.depths)
    # stochastic depth rises linearly over all blocks
    rates = iter([drop_path * block / max(count - 1, 1) for block in range(count)])
    modules = nn.ModuleDict()
    stages, norms = (tuple(f"{kind}{number}" for number in range(1, NUM_STAGES + 1)) for kind in ("stage", "norm"))
    for stage, inputs in enumerate((in_channels, *size.channels[:-1])):
        modules[stages[stage]] = MixStage(size, stage, in_channels=inputs, drop_paths=rates, eps=eps)
        modules[norms[stage]] = nn.LayerNorm(size.channels[stage], eps=eps)
    modules.apply(_initialise)
    return Chain(
        modules=modules,
        outputs=norms,
        channels=size.channels,
        strides=(4, 8, 16, 32),
        channels_last=True,
        size_multiple=1,
        semantic_after=stages if semantic_place == "before_norm" else norms,
    )


class MixStage(nn.Module):
    """A stage: the embedding of overlapping patches, and blocks; images and maps may be of any size.

    The first stage reads images, b c H W; the others read maps, b h w c.
    """

    def __init__(self, size: Size, stage: int, *, in_channels: int, drop_paths: Iterator[float], eps: float) -> None:
        """`drop_paths` gives the stochastic-depth rate of each block and goes on to the next stage."""
        super().__init__()
        channels = size.channels[stage]
        self.reads_images = stage == 0
        self.embed = OverlappingPatches(in_channels, channels, kernel=KERNELS[stage], step=STEPS[stage], eps=eps)
        block = partial(MixBlock, channels, num_heads=HEADS[stage], reduction=REDUCTIONS[stage], eps=eps)
        self.blocks = nn.Sequential(*(block(drop_path=next(drop_paths)) for _ in range(size.depths[stage])))

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b h w c"]:
        return self.blocks(self.embed(x if self.reads_images else x.permute(0, 3, 1, 2)))


class OverlappingPatches(nn.Module):
    """One normalised token per patch; neighbouring patches overlap.

    Source: SegFormer §3.1, overlapped patch merging.
    """

    def __init__(self, in_channels: int, channels: int, *, kernel: int, step: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=step, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b h w c"]:
        """Return ⌈H / step⌉ × ⌈W / step⌉ tokens."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class MixBlock(nn.Module):
    """A pre-norm block of efficient attention and Mix-FFN, each added to its input."""

    def __init__(self, channels: int, *, num_heads: int, reduction: int, drop_path: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attention = EfficientAttention(channels, num_heads=num_heads, reduction=reduction, eps=eps)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = MixFFN(channels)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        # efficient self-attention, then Mix-FFN
        x = x + self.drop_path1(self.attention(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class EfficientAttention(nn.Module):
    """Attention from every token to a map of tokens that is `reduction` times coarser on each side.

    Source: SegFormer §3.1, eq. 1-2; the reduction is a convolution, as in the authors' code and PVT (arXiv:2102.12122).
    """

    def __init__(self, channels: int, *, num_heads: int, reduction: int, eps: float) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.reduce = Reduction(channels, reduction, eps=eps) if reduction > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        # sequence reduction: keys and values from a coarser map
        coarse = self.reduce(x)
        # b h w c → b heads n d
        query, key, value = (
            tokens.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens in (self.query(x), self.key(coarse), self.value(coarse))
        )
        attended = attention(query, key, value)
        return self.project(attended.transpose(1, 2).flatten(2).view(x.shape))


class Reduction(nn.Module):
    """One normalised token per `ratio` × `ratio` tokens; a remainder at the right and bottom is dropped."""

    def __init__(self, channels: int, ratio: int, *, eps: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv2d(channels, channels, ratio, stride=ratio)
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j c"]:
        """Return the coarser map, of one token at least: a smaller map is padded with zeros."""
        _, height, width, _ = x.shape
        # a map smaller than one square is padded to it
        padded = F.pad(x, (0, 0, 0, max(0, self.ratio - width), 0, max(0, self.ratio - height)))
        return self.norm(self.conv(padded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class MixFFN(nn.Module):
    """An MLP with a 3×3 depthwise convolution inside, whose zero padding carries the positions of tokens.

    Source: SegFormer §3.1, eq. 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        # eq. 3: MLP, 3×3 convolution, GELU, MLP
        if torch.compiler.is_exporting():
            # runtimes permute narrow maps faster than wide ones
            expand, contract = (
                partial(F.conv2d, weight=layer.weight[..., None, None], bias=layer.bias)
                for layer in (self.expand, self.contract)
            )
            return contract(F.gelu(self.depthwise(expand(x.permute(0, 3, 1, 2))))).permute(0, 2, 3, 1)
        mixed = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.contract(F.gelu(mixed))


def _initialise(module: nn.Module) -> None:
    # as the authors do
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        # by the fan-out of one group
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
