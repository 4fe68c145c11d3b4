"""Segmenter's two decoders over patch tokens: linear, and Mask Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semask.models.decoders.pspnet import pool
from semask.models.layers.attention import HEAD_WIDTH, Block
from semask.ops.linear import linear
from semask.ops.resize import resize, size_of
from semask.structures import Features, PixelLogits

STRIDE = 16
"""Of the map made from a pyramid; that of a ViT's patches in most of Segmenter's models."""


class SegmenterLinear(nn.Module):
    """A linear classifier of every patch.

    Source: Segmenter (arXiv:2105.05633) §3.2, the linear baseline.
    """

    def __init__(self, single_scale: SingleScale, *, num_classes: int) -> None:
        super().__init__()
        self.single_scale = single_scale
        self.classify = nn.Conv2d(single_scale.channels, num_classes, 1)
        self.apply(initialise)

    def forward(self, features: Features) -> PixelLogits:
        return PixelLogits(self.classify(self.single_scale(features.maps)))


class MaskTransformer(nn.Module):
    """A transformer over patches and class embeddings; a class's mask is its similarity to every patch.

    The class embeddings follow the patches; there is no position table here. Rows are divided by their L2 norm, so
    the masks are cosines, and are normalised over the classes by a LayerNorm with weights.

    Source: Segmenter §3.2, eq. 4; projections, class-wise norm and dropout from the authors' code.
    """

    def __init__(
        self,
        single_scale: SingleScale,
        *,
        num_classes: int,
        width: int | None = None,
        layers: int = 2,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        """`width` None is the encoder's; heads are 64 wide, or one takes all of a narrower decoder."""
        super().__init__()
        width = single_scale.channels if width is None else width
        heads = max(1, width // HEAD_WIDTH)
        self.single_scale = single_scale
        self.project = nn.Linear(single_scale.channels, width)
        self.class_embeddings = nn.Parameter(torch.empty(num_classes, width))
        rates = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(width, num_heads=heads, dropout=dropout, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        # Right-multiplied without bias, as the authors' bare matrices.
        self.patch_projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.class_projection = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.mask_norm = nn.LayerNorm(num_classes)
        nn.init.trunc_normal_(self.class_embeddings, std=0.02)
        self.apply(initialise)

    def forward(self, features: Features) -> PixelLogits:
        tokens, (height, width) = self.tokens(features)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        # eq. 4: scalar product of L2-normalised patch and class embeddings
        count = height * width
        patches = F.normalize(linear(tokens[:, :count], self.patch_projection.t()), dim=-1)
        classes = F.normalize(linear(tokens[:, count:], self.class_projection.t()), dim=-1)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))
        return PixelLogits(masks.transpose(1, 2).unflatten(-1, (height, width)))

    def tokens(self, features: Features) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Return what the first block reads, projected patches and then class embeddings, and the patches' grid."""
        patches = self.single_scale(features.maps)
        projected = self.project(patches.flatten(2).transpose(1, 2))
        classes = self.class_embeddings.to(projected.dtype).expand(projected.shape[0], -1, -1)
        return torch.cat((projected, classes), dim=1), size_of(patches)

    def attention(self, tokens: Float[Tensor, "b n d"], layer: int) -> Float[Tensor, "b heads n n"]:
        """Return the attention weights of one layer for the result of `tokens`; each row has the sum 1."""
        for block in self.blocks[:layer]:
            tokens = block(tokens)
        chosen = self.blocks[layer]
        assert isinstance(chosen, Block)
        return chosen.attn.weights(chosen.norm1(tokens))


class SingleScale(nn.Module):
    """One map from those of an encoder: a plain ViT's stays as it is, a pyramid is brought to stride 16.

    "last" resizes the coarsest map bilinearly. "fused" projects every map to `width` channels by a 1×1 convolution,
    averages finer ones down and resizes coarser ones up, and adds them.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int | float],
        *,
        source: Literal["last", "fused"] | None,
        width: int | None = None,
    ) -> None:
        """`source` belongs to pyramids, `width` to "fused" alone; None is the coarsest map's width."""
        super().__init__()
        pyramid = len(in_channels) > 1
        if pyramid == (source is None):
            fix = "last or fused, or a plain ViT" if pyramid else "None"
            raise ValueError(
                f"Segmenter reads one map; this encoder gives {len(in_channels)}, and single_scale is {source!r}; "
                f"use --model.decoder.single-scale {fix}"
            )
        if pyramid and STRIDE not in strides:
            raise ValueError(f"the encoder has no stage at stride {STRIDE}, only {tuple(strides)}; use another one")
        self.target = list(strides).index(STRIDE) if pyramid else None
        fused = pyramid and source == "fused"
        self.channels = width if fused and width is not None else in_channels[-1]
        self.projections = nn.ModuleList(nn.Conv2d(c, self.channels, 1) for c in in_channels) if fused else None

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        if self.target is None:
            return maps[0]
        size = size_of(maps[self.target])
        if self.projections is None:
            return resize(maps[-1], size)
        # project every level, bring it to stride 16 and sum
        levels = [
            pool(projected, size) if level < self.target else resize(projected, size)
            for level, projected in enumerate(p(m) for p, m in zip(self.projections, maps, strict=True))
        ]
        return torch.stack(levels).sum(0)


def initialise(module: nn.Module) -> None:
    """Draw the weights of linear layers from a normal distribution of deviation 0.02; biases are 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
