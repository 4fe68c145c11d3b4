"""Options of encoders: one dataclass per kind of backbone, and what follows its stages. Standard library alone.

`kind` names the type in recipe.json and in `models/build.py`; `name` is timm's, with the tag of the weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

Four = tuple[int, int, int, int]
Windows = tuple[int | None, int | None, int | None, int | None]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SemanticLayers:
    """A semantic layer after every stage.

    Source: SeMask (arXiv:2112.12782) §3.1; its Tables 3 and 4 for `attention` and `gain`.
    """

    kind: ClassVar[str] = "semantic_layers"
    windows: Windows = (7, 7, None, None)
    """Extent of semantic attention per stage [tokens]; None attends over the whole map."""
    units: Four = (1, 1, 1, 1)
    """Semantic attention units per stage (the paper's N_S)."""
    dropout: float = 0.1
    """Dropout after the projection of semantic attention."""
    residual: Literal["norm", "input"] = "norm"
    """Summand beside the masked features: the layer's normalised input (published) or its raw input."""
    dead_init: bool = False
    """Start λ and the projection both at zero, as three of the authors' ports do: semantic attention never learns."""
    attention: Literal["semantic", "self"] = "semantic"
    """Ablation: attention through class maps, or plain single-head self-attention, which has no semantic maps."""
    gain: Literal["learned", "one"] = "learned"
    """Ablation: λ is learned, or left out (1)."""
    shift: bool = False
    """Ablation: shift the windows of every second unit, counted through the stages, by half their side."""

    def shifts(self) -> list[list[bool]]:
        """Whether the windows of each stage's units are shifted."""
        count = itertools.count()
        return [
            [next(count) % 2 == 1 and self.shift and window is not None and window > 1 for _ in range(units)]
            for window, units in zip(self.windows, self.units, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class StageProbe:
    """A linear classifier of every stage, supervised like a semantic map, in place of semantic layers.

    Source: SeMask Table 5.
    """

    kind: ClassVar[str] = "probe"
    reads: Literal["features", "queries"] = "features"
    """Input of the classifier: the stage's map, or the queries of its last block (Swin only)."""


AfterStage = SemanticLayers | StageProbe | None


@dataclass(frozen=True, kw_only=True)
class _Backbone:
    name: str
    weights: str | None = "timm"
    """'timm': the tag's weights from the hub; a path: a local file; None: random weights."""


@dataclass(frozen=True, kw_only=True)
class HRNetOptions(_Backbone):
    """HRNet."""

    kind: ClassVar[str] = "hrnet"
    polarized_attention: bool = False
    """Polarised self-attention after the first convolution of every basic block."""
    semantic: AfterStage = None
    """Semantic layers, or the probes they are compared with, after every stage; None has neither."""


@dataclass(frozen=True, kw_only=True)
class StagesOptions(_Backbone):
    """Any backbone that timm runs stage by stage at any image size: ConvNeXt, PVTv2, EfficientNet, Twins, …."""

    kind: ClassVar[str] = "stages"
    drop_path: float = 0.0
    """Largest stochastic-depth rate, rising linearly from 0 over the blocks."""
    semantic: AfterStage = None
    """Semantic layers, or the probes they are compared with, after every stage; None has neither."""


@dataclass(frozen=True, kw_only=True)
class SwinOptions(StagesOptions):
    """Swin Transformer; None keeps the named model's sizes."""

    kind: ClassVar[str] = "swin"
    name: str = "swin_tiny_patch4_window7_224.ms_in1k"
    embed_dim: int | None = None
    """Width of stage 1."""
    depths: Four | None = None
    """Blocks per stage."""
    num_heads: Four | None = None
    """Attention heads per stage."""
    window_size: int | None = None
    """Side of the attention window [tokens]."""


@dataclass(frozen=True, kw_only=True)
class FixedSizeOptions(StagesOptions):
    """A backbone built for one image size: MaxViT, GC ViT, Hiera, Swin V2 …."""

    kind: ClassVar[str] = "fixed_size"
    image_size: Size | None = None
    """(height, width) [px] of every image or window; None takes the crop's."""


@dataclass(frozen=True, kw_only=True)
class DilatableOptions(StagesOptions):
    """ResNet, ResNeSt or aligned Xception."""

    kind: ClassVar[str] = "dilatable"
    output_stride: Literal[8, 16, 32] = 32
    """Stride of the coarsest map; stages beyond it are dilated instead."""


@dataclass(frozen=True, kw_only=True)
class MixTransformerOptions(StagesOptions):
    """Mix Transformer, SegFormer's backbone: mit_b0 … mit_b5."""

    kind: ClassVar[str] = "mix_transformer"
    norm_eps: float | None = None
    """Epsilon of the LayerNorms; None keeps the authors'."""
    semantic_place: Literal["before_norm", "after_norm"] = "before_norm"
    """Side of a stage's LayerNorm on which its semantic layer lies."""


@dataclass(frozen=True, kw_only=True)
class _ViT(_Backbone):
    drop_path: float = 0.0
    """Largest stochastic-depth rate, rising linearly from 0 over the blocks."""
    dropout: float = 0.0
    """Dropout of tokens, of attention and in the MLPs."""
    image_size: Size | None = None
    """(height, width) [px] of images that fit the position table as it is; None keeps the named model's."""
    patch_size: int | None = None
    """Side of the patches [px]; None keeps the named model's. Weights of another size do not fit."""
    norm_eps: float | None = None
    """Epsilon of the LayerNorms; None keeps the named model's."""
    position_resize: Literal["bilinear", "bicubic"] | None = None
    """Interpolation of the position table without antialiasing, by the number of tokens alone. None is timm's own way:
    bicubic, antialiased, by the shape of the grid."""
    class_token: bool = True
    """Whether the class token takes part in the layers."""


@dataclass(frozen=True, kw_only=True)
class ViTOptions(_ViT):
    """A plain ViT of timm's, which gives maps of one stride: ViT, DeiT, DINOv2, DINOv3, MAE, SigLIP, …."""

    kind: ClassVar[str] = "vit"
    semantic: ClassVar[None] = None
    out_layers: tuple[int, ...] | None = None
    """Layers, counted from 1, whose patch tokens are the maps, without the final norm (SETR); None gives the last
    layer's after the norm."""


@dataclass(frozen=True, kw_only=True)
class PyramidViTOptions(_ViT):
    """A plain ViT with a simple pyramid of four maps (ViTDet), for decoders and semantic layers that need stages."""

    kind: ClassVar[str] = "pyramid_vit"
    semantic: AfterStage = None
    """Semantic layers, or the probes they are compared with, after every level; None has neither."""


EncoderOptions = (
    SwinOptions
    | StagesOptions
    | FixedSizeOptions
    | DilatableOptions
    | HRNetOptions
    | MixTransformerOptions
    | ViTOptions
    | PyramidViTOptions
)

KINDS: dict[str, type[Any]] = {options.kind: options for options in get_args(EncoderOptions)}
"""Types of encoders' options by their kind."""
