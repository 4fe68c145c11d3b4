"""The values that travel between the parts, and the legend of the axis letters.

b batch · c channels · k classes · q queries · h w a feature grid · H W an image · n tokens · l levels · p points
d head width

Images are RGB, or have any number of channels, in [0, 1], channels first. Labels are class ids; `IGNORE` marks
pixels that take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from semask.ops.device import without_autocast
from semask.ops.lazy_scores import LazyScores, combine_masks_lazily, resize_lazily
from semask.ops.palette import Colour, label_png, palette
from semask.ops.resize import resize, size_of

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
    """Per-pixel class logits at the decoder's own grid.

    auxiliary: what was predicted from earlier maps, each at its own grid, for deep supervision. align_corners: how they
    are brought to another size.
    """

    logits: Float[Tensor, "b k h w"]
    auxiliary: tuple[PixelLogits, ...] = ()
    align_corners: bool = False

    def scores(self, size: tuple[int, int]) -> Float[Tensor, "b k H W"]:
        """Return the logits at `size` (height, width)."""
        # In float32 whatever autocast chose: resized bfloat16 scores tie, and ties decide labels.
        return resize(self.logits.float(), size, align_corners=self.align_corners)

    def lazy_scores(self, size: tuple[int, int]) -> LazyScores:
        """Return the same scores, computed a block of rows at a time."""
        return resize_lazily(self.logits, size, align_corners=self.align_corners)


class MaskLogits(NamedTuple):
    """A set of masks, each with a class: logits of every query's class (the last is "no object") and of its mask.

    auxiliary: what earlier layers predicted, first to last, for deep supervision.
    """

    class_logits: Float[Tensor, "b q k+1"]
    mask_logits: Float[Tensor, "b q h w"]
    auxiliary: tuple[MaskLogits, ...] = ()

    def scores(self, size: tuple[int, int]) -> Float[Tensor, "b k H W"]:
        """Return Σ_q p(class k | q)·p(pixel in mask q) at `size` (height, width).

        They lie in [0, q] and their sum over classes is no fixed number. Masks are resized as logits and then combined.

        Source: MaskFormer (arXiv:2107.06278) §3.4, semantic inference.
        """
        with without_autocast(self.class_logits.device):
            return torch.einsum("bqk,bqhw->bkhw", *self.probabilities(size))

    def lazy_scores(self, size: tuple[int, int]) -> LazyScores:
        """Return the same scores, computed a block of rows at a time."""
        return combine_masks_lazily(self.class_probabilities(), self.mask_logits, size)

    def probabilities(self, size: tuple[int, int]) -> tuple[Float[Tensor, "b q k"], Float[Tensor, "b q H W"]]:
        """Return how likely each query is of each class, "no object" left out, and each pixel in its mask at `size`."""
        return self.class_probabilities(), resize(self.mask_logits.float(), size).sigmoid()

    def class_probabilities(self) -> Float[Tensor, "b q k"]:
        """Return how likely each query is of each class, "no object" left out."""
        return self.class_logits.float().softmax(-1)[..., :-1]


class PixelFeatures(NamedTuple):
    """What a pixel decoder hands to a mask decoder.

    masks: the embedding of every pixel at stride 4, which queries are compared with. pyramid: refined maps of one
    width, coarse to fine, for queries to attend to.
    """

    masks: Float[Tensor, "b c h w"]
    pyramid: tuple[Tensor, ...]


class Segmentation(NamedTuple):
    """What a model returns: the decoder's prediction and, with semantic layers, the semantic prior."""

    main: PixelLogits | MaskLogits
    prior: PixelLogits | None = None

    def _repr_png_(self) -> bytes:
        """Return the best class of every point of the main prediction's grid as an image, for notebooks."""
        grid = self.main.logits if isinstance(self.main, PixelLogits) else self.main.mask_logits
        best = self.main.scores(size_of(grid)).argmax(dim=1)
        return label_png(best.cpu().numpy(), palette(IGNORE))


class LabelMap(Tensor):
    """Class ids that notebooks show in the colours of their classes.

    Results of operations, copies and stored files are plain tensors.

    names: names of the classes. colours: RGB of every class, 0 … 255. Both are empty where they are unknown.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def _repr_png_(self) -> bytes:
        height, width = size_of(self)
        return label_png(self.cpu().numpy().reshape(-1, height, width), self.colours or palette(IGNORE))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        plain: Tensor = self.as_subclass(Tensor).__deepcopy__(memo)
        return plain


class LossTerms(NamedTuple):
    """Scalar losses of one batch, weights included: total = main + prior + auxiliary.

    auxiliary: of per-pixel predictions from earlier maps; a mask classifier's are part of its main loss.
    """

    total: Float[Tensor, ""]
    main: Float[Tensor, ""]
    prior: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]


class Sample(NamedTuple):
    """One image with its labels: image c×H×W in [0, 1], label H×W (class ids, `IGNORE`), name for messages."""

    image: Float[Tensor, "c H W"]
    label: Integer[Tensor, "H W"]
    name: str = ""


class Batch(NamedTuple):
    """Samples of one size, stacked."""

    images: Float[Tensor, "b c H W"]
    labels: Integer[Tensor, "b H W"]
    names: tuple[str, ...]


class EncodedBatch(NamedTuple):
    """A batch whose images a frozen encoder has seen before: the maps of its Features, and the labels as padded."""

    maps: tuple[Tensor, ...]
    labels: Integer[Tensor, "b H W"]
    names: tuple[str, ...]


@runtime_checkable
class Encoder(Protocol):
    """A module that turns normalised images into Features.

    Required: `channels` and `strides` of its maps, fine to coarse.

    Optional, with these defaults:
        size_multiple: Images are padded to multiples of it [px]; default: the coarsest stride.
        fixed_size: The one (height, width) [px] of images it takes; default None, any.
        channels_last: Whether its modules run faster on b h w c already and memory formats are left alone; False.
        semantic: Its semantic layers, one per stage; default none.
    """

    @property
    def channels(self) -> Sequence[int]:
        """Width of every map."""

    @property
    def strides(self) -> Sequence[int | float]:
        """Pixels of the image per step of every map."""

    def __call__(self, images: Float[Tensor, "b c H W"], /) -> Features:
        """Features of the images."""


@runtime_checkable
class Decoder(Protocol):
    """A module that turns Features into logits of pixels or of masks.

    Optional, with these defaults:
        size_multiple: Images are padded to multiples of it [px]; default 1.
        has_auxiliary: Whether it predicts from earlier maps or layers too and takes `auxiliary=False` not to; False.
        classifies_masks: Whether it gives MaskLogits; default False.
    """

    def __call__(self, features: Features, /) -> PixelLogits | MaskLogits:
        """Logits at a grid of the decoder's own."""


@runtime_checkable
class Predictor(Protocol):
    """What gives the class scores of every pixel: a model, or a pipeline of windows, scales and flips around one.

    Optional, with these defaults:
        scores_are_logits: Whether the softmax of the scores is the probability; a mask classifier's are averaged as
            they are. Default True.
        size_multiple: Sides of images are padded to multiples of it [px]; default 1.
        fixed_size: The one (height, width) [px] of images it takes; default None, any.
    """

    def lazy_scores(self, images: Float[Tensor, "b c H W"], /) -> LazyScores:
        """Class scores at the images' size, computed a block of rows at a time."""


class Loss(Protocol):
    """A function or module from a prediction and its labels to the loss of one batch: one scalar, or its terms."""

    def __call__(self, prediction: Segmentation, labels: Integer[Tensor, "b H W"], /) -> LossTerms | Tensor:
        """Loss of a batch; labels are as large as the padded images, `IGNORE` where there is none."""
