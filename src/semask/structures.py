"""The values that travel between the parts, and the legend of the axis letters.

b batch · c channels · k classes · q queries · h w a feature grid · H W an image · n tokens · l levels · p points
d head width

Images are RGB in [0, 1], channels first. Labels are class ids; `IGNORE` marks pixels that take no part.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Integer
from torch import Tensor

IGNORE = 255
"""The label value that no loss and no metric looks at."""


class Features(NamedTuple):
    """What an encoder hands to a decoder.

    maps: one map per stage, fine to coarse, each b c h w.
    priors: the semantic maps of the semantic layers, each b k h w at its stage's grid; empty without them.
    """

    maps: tuple[Tensor, ...]
    priors: tuple[Tensor, ...] = ()


class PixelLogits(NamedTuple):
    """Per-pixel class logits at the decoder's own grid."""

    logits: Float[Tensor, "b k h w"]


class Segmentation(NamedTuple):
    """What a model returns: the decoder's prediction and, with semantic layers, the semantic prior."""

    main: PixelLogits
    prior: PixelLogits | None = None


class LossTerms(NamedTuple):
    """Scalar losses of one batch; `prior` already carries its weight, so total = main + prior."""

    total: Float[Tensor, ""]
    main: Float[Tensor, ""]
    prior: Float[Tensor, ""]


class Sample(NamedTuple):
    """One picture with its labels: image 3×H×W in [0, 1], label H×W (class ids, `IGNORE`), name for messages."""

    image: Float[Tensor, "3 H W"]
    label: Integer[Tensor, "H W"]
    name: str


class Batch(NamedTuple):
    """Samples of one size, stacked."""

    images: Float[Tensor, "b 3 H W"]
    labels: Integer[Tensor, "b H W"]
    names: tuple[str, ...]


class EncodedBatch(NamedTuple):
    """A batch whose pictures a frozen encoder has seen before: the maps of its Features, and the labels as padded."""

    maps: tuple[Tensor, ...]
    labels: Integer[Tensor, "b H W"]
    names: tuple[str, ...]
