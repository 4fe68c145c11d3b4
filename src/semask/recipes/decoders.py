"""Options of decoders and pixel decoders: one dataclass each. Standard library alone.

`kind` names the type in recipe.json, on the command line (`--decoder KIND`) and in `models/build.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    channels: int | None = 256
    """Width; None takes the encoder's."""
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SemanticFPNOptions(_Decoder):
    """Semantic FPN, SeMask's decoder (arXiv:1901.02446)."""

    kind: ClassVar[str] = "semantic_fpn"
    neck: int | None = None
    """Width of a feature pyramid between encoder and decoder (Panoptic FPN); None reads the encoder's maps."""


@dataclass(frozen=True, kw_only=True)
class SegFormerOptions(_Decoder):
    """SegFormer's head (arXiv:2105.15203), as its authors have it."""

    kind: ClassVar[str] = "segformer"


@dataclass(frozen=True, kw_only=True)
class SegFormerMMSegOptions(_Decoder):
    """SegFormer's head as mmsegmentation has it, which SeMask compares with."""

    kind: ClassVar[str] = "segformer_mmseg"


@dataclass(frozen=True, kw_only=True)
class _Supervised(_Decoder):
    channels: int | None = 512
    auxiliary: bool = True
    """Supervise earlier maps too, with `loss.auxiliary_weight`."""


@dataclass(frozen=True, kw_only=True)
class FCNOptions(_Supervised):
    """FCN's head (arXiv:1411.4038)."""

    kind: ClassVar[str] = "fcn"


@dataclass(frozen=True, kw_only=True)
class PSPNetOptions(_Supervised):
    """PSPNet's head (arXiv:1612.01105)."""

    kind: ClassVar[str] = "pspnet"


@dataclass(frozen=True, kw_only=True)
class DeepLabV3PlusOptions(_Supervised):
    """DeepLabV3+'s head (arXiv:1802.02611)."""

    kind: ClassVar[str] = "deeplabv3plus"


@dataclass(frozen=True, kw_only=True)
class UPerNetOptions(_Supervised):
    """UPerNet's head (arXiv:1807.10221)."""

    kind: ClassVar[str] = "upernet"


@dataclass(frozen=True, kw_only=True)
class CCNetOptions(_Supervised):
    """CCNet's head (arXiv:1811.11721)."""

    kind: ClassVar[str] = "ccnet"


@dataclass(frozen=True, kw_only=True)
class PSANetOptions(_Supervised):
    """PSANet's head (ECCV 2018)."""

    kind: ClassVar[str] = "psanet"
    window_size: int = 66
    """Side of the window of attention [cells of half the last map], see models/decoders/psanet.py."""


@dataclass(frozen=True, kw_only=True)
class OCROptions(_Decoder):
    """OCR's head (arXiv:1909.11065); its coarse prediction is its own auxiliary head."""

    kind: ClassVar[str] = "ocr"
    channels: int | None = 512
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SETRNaiveOptions:
    """SETR with naive upsampling (arXiv:2012.15840), over several layers of a plain ViT."""

    kind: ClassVar[str] = "setr_naive"
    channels: int | None = 256
    """Width; None takes the encoder's."""
    auxiliary: bool = True
    """Supervise every map that the encoder gives, with `loss.auxiliary_weight`."""


@dataclass(frozen=True, kw_only=True)
class SETRPUPOptions(SETRNaiveOptions):
    """SETR with progressive upsampling."""

    kind: ClassVar[str] = "setr_pup"


@dataclass(frozen=True, kw_only=True)
class SETRMLAOptions(SETRNaiveOptions):
    """SETR with multi-level feature aggregation."""

    kind: ClassVar[str] = "setr_mla"


@dataclass(frozen=True, kw_only=True)
class SegmenterLinearOptions:
    """Segmenter's linear decoder (arXiv:2105.05633)."""

    kind: ClassVar[str] = "segmenter_linear"
    single_scale: Literal["last", "fused"] | None = None
    """Over a pyramid: the map at stride 16 that is read, from the last stage or from all stages."""
    channels: int | None = None
    """Width of the fused map; None takes the encoder's."""


@dataclass(frozen=True, kw_only=True)
class SegmenterMaskOptions(SegmenterLinearOptions):
    """Segmenter's Mask Transformer (arXiv:2105.05633)."""

    kind: ClassVar[str] = "segmenter_mask"
    layers: int = 2
    """Transformer blocks."""
    dropout: float = 0.1
    drop_path: float = 0.0
    """Largest stochastic-depth rate of the blocks."""


@dataclass(frozen=True, kw_only=True)
class FPNOptions:
    """MaskFormer's feature pyramid."""

    kind: ClassVar[str] = "fpn"


@dataclass(frozen=True, kw_only=True)
class MSDeformOptions:
    """Mask2Former's multi-scale deformable attention."""

    kind: ClassVar[str] = "msdeform"
    layers: int = 6
    feedforward: int = 1024
    """Hidden width of the layers' MLPs."""


@dataclass(frozen=True, kw_only=True)
class FaPNOptions:
    """FaPN's aligned feature pyramid (arXiv:2108.07058)."""

    kind: ClassVar[str] = "fapn"
    feature_selection: bool = False
    """Laterals with the original FaPN's feature selection, which SeMask's leaves out."""


@dataclass(frozen=True, kw_only=True)
class MSFaPNOptions(MSDeformOptions):
    """FaPN's alignment under multi-scale deformable attention (SeMask Table 6)."""

    kind: ClassVar[str] = "msfapn"
    feature_selection: bool = False
    """Laterals with the original FaPN's feature selection, which SeMask's leaves out."""


PixelDecoderOptions = FPNOptions | MSDeformOptions | FaPNOptions | MSFaPNOptions


@dataclass(frozen=True, kw_only=True)
class MaskFormerOptions(_Decoder):
    """MaskFormer (arXiv:2107.06278)."""

    kind: ClassVar[str] = "maskformer"
    pixel_decoder: PixelDecoderOptions = field(default_factory=FPNOptions)
    """Pyramid of refined maps and embedding of the pixels."""
    queries: int = 100
    layers: int = 6
    """Layers of the transformer decoder."""
    heads: int = 8
    feedforward: int = 2048
    """Hidden width of the transformer decoder's MLPs."""


@dataclass(frozen=True, kw_only=True)
class Mask2FormerOptions(MaskFormerOptions):
    """Mask2Former (arXiv:2112.01527), also over FaPN's pixel decoders."""

    kind: ClassVar[str] = "mask2former"
    pixel_decoder: PixelDecoderOptions = field(default_factory=MSDeformOptions)
    """Pyramid of refined maps and embedding of the pixels."""
    layers: int = 9
    """Layers of the transformer decoder."""
    dropout: float = 0.0


DecoderOptions = (
    SemanticFPNOptions
    | SegFormerOptions
    | SegFormerMMSegOptions
    | FCNOptions
    | PSPNetOptions
    | DeepLabV3PlusOptions
    | UPerNetOptions
    | CCNetOptions
    | PSANetOptions
    | OCROptions
    | SETRNaiveOptions
    | SETRPUPOptions
    | SETRMLAOptions
    | SegmenterLinearOptions
    | SegmenterMaskOptions
    | MaskFormerOptions
    | Mask2FormerOptions
)
KINDS: dict[str, type[Any]] = {options.kind: options for options in get_args(DecoderOptions)}
"""Types of decoders' options by their kind."""
MASK_CLASSIFIERS = ("maskformer", "mask2former")
"""Kinds that predict masks, each with a class; the others predict pixels."""
PIXEL_DECODERS: dict[str, type[Any]] = {options.kind: options for options in get_args(PixelDecoderOptions)}
"""The same for pixel decoders."""


def decoder_options(kind: str, **fields: Any) -> DecoderOptions:
    """Options of the decoder of that kind.

    Raises:
        ValueError: No decoder has that name, or it has no such field.
    """
    options: DecoderOptions = make_options(KINDS, kind, fields, what="decoder")
    return options


def make_options(kinds: dict[str, type[Any]], kind: str, fields: dict[str, Any], *, what: str) -> Any:
    """Options of one of several kinds, with some fields set.

    Raises:
        ValueError: The kind or a field is unknown.
    """
    if kind not in kinds:
        near = get_close_matches(kind, kinds, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no {what} called {kind!r}{hint} Allowed: {', '.join(kinds)}.")
    known = {option.name for option in dataclass_fields(kinds[kind])}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"the {what} {kind!r} has no {', '.join(unknown)}; it has: {', '.join(sorted(known))}")
    return kinds[kind](**fields)
