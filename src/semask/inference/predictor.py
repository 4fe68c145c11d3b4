"""Predictors: images to scores, or to label maps without ever holding the scores of a whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from semask.inference.regions import RegionImage, whole
from semask.ops.argmax import check_classes, label_map
from semask.ops.lazy_scores import Decided, InMemory, LazyScores, best_class, iter_row_blocks, materialize
from semask.ops.resize import to_float
from semask.structures import Predictor

if TYPE_CHECKING:
    from PIL.Image import Image

    from semask.recipes import DataRecipe

    ImageLike = str | Path | Image | np.ndarray[Any, Any] | Tensor

Images = Float[Tensor, "b c H W"] | UInt8[Tensor, "b c H W"] | RegionImage
"""In [0, 1], or bytes: these become floats just before the model, a window at a time; or an image read by region."""
Scorer = Callable[[Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]
"""A plain function from images to scores, which are logits unless said otherwise."""


Measure = Literal["confidence", "entropy", "probabilities"]
"""What `Pipeline.strips` computes beside labels."""


class Labelled(NamedTuple):
    """The best class of every pixel, and its probability: of a mask classifier, its share of the summed scores."""

    labels: UInt8[Tensor, "b H W"]
    confidence: Float[Tensor, "b H W"]


class Strip(NamedTuple):
    """Results in rows first … last - 1 of images; None: not asked for.

    entropy: of the probabilities, as a share of log k: 0 is certain, 1 knows nothing.
    """

    first: int
    last: int
    labels: UInt8[Tensor, "b r W"]
    confidence: Float[Tensor, "b r W"] | None = None
    entropy: Float[Tensor, "b r W"] | None = None
    probabilities: Float[Tensor, "b k r W"] | None = None


class Pipeline:
    """Images (b c H W), floats in [0, 1] or bytes, to scores (b k H W), or to label maps a block of rows at a time.

    scores_are_logits: whether their softmax is the probability; if not, their share of the sum over classes is.
    memory_budget: [GiB] larger scores are assembled in the CPU's memory when a call returns them; None never does that.
    Label maps need no whole scores.
    """

    def __init__(
        self,
        lazy_scores: Callable[[Images], LazyScores],
        *,
        scores_are_logits: bool = True,
        memory_budget: float | None = None,
    ) -> None:
        if memory_budget is not None and not memory_budget > 0:
            raise ValueError(
                f"memory_budget must be more than 0 GiB, got {memory_budget}; None leaves scores on the model's device"
            )
        self.lazy_scores = lazy_scores
        self.scores_are_logits = scores_are_logits
        self.memory_budget = memory_budget

    def __call__(self, images: Images) -> Float[Tensor, "b k H W"]:
        """Return the scores; gradients are recorded if the caller enables them."""
        lazy = self.lazy_scores(images)
        exceeds = device_within(lazy.shape, images.device, self.memory_budget) != images.device
        return materialize(lazy, device="cpu" if exceeds else None)

    def labels(self, images: Images) -> UInt8[Tensor, "b H W"]:
        """Return the best class of every pixel.

        Raises:
            FloatingPointError: Scores are NaN; their labels would all be of one class.
        """
        return label_map(self.lazy_scores(images))

    def labelled(self, images: Images) -> Labelled:
        """Return the best class of every pixel and its probability, NaN where the scores are."""
        (strip,) = self.strips(images, images.shape[-2], measures=["confidence"])
        assert strip.confidence is not None
        return Labelled(strip.labels, strip.confidence)

    def strips(self, images: Images, rows: int, *, top: int = 0, measures: Collection[Measure] = ()) -> Iterator[Strip]:
        """Yield label maps and measures `rows` rows at a time, from row `top` down; nothing else is ever whole.

        Without measures, labels are `labels`; with them they are the best of the same scores, whose ties may differ.

        Raises:
            FloatingPointError: Scores are NaN, and no measure, which would be NaN too, was asked for.
        """
        lazy = self.lazy_scores(images)
        check_classes(lazy.shape[1])
        for first in range(top, lazy.shape[2], rows):
            last = min(first + rows, lazy.shape[2])
            if not measures:
                yield Strip(first, last, label_map(lazy, first, last))
            elif isinstance(lazy, Decided) and lazy.confidence is not None and {*measures} == {"confidence"}:
                yield Strip(first, last, lazy.labels[:, first:last], lazy.confidence[:, first:last])
            else:
                blocks = [self._measure(scores, measures) for _, _, scores in iter_row_blocks(lazy, first, last)]
                yield Strip(first, last, **{name: torch.cat([each[name] for each in blocks], -2) for name in blocks[0]})

    def _measure(self, scores: Float[Tensor, "b k r W"], measures: Collection[Measure]) -> dict[str, Tensor]:
        """Labels and measures of a block of rows, by their names in a strip."""
        best, classes = scores.amax(dim=1), scores.shape[1]
        found = {"labels": best_class(scores).to(torch.uint8)}
        if "confidence" in measures and self.scores_are_logits:
            # softmax at the largest logit
            found["confidence"] = 1 / (scores - best[:, None]).exp_().sum(dim=1)
        elif "confidence" in measures:
            # Where no query has a mask all scores are 0, and no class is more likely than another.
            found["confidence"] = torch.where(best == 0, 1 / classes, best / scores.sum(dim=1))
        if "probabilities" in measures or "entropy" in measures:
            total = scores.sum(dim=1, keepdim=True)
            shares = scores.softmax(dim=1) if self.scores_are_logits else scores / total
            probabilities = shares if self.scores_are_logits else torch.where(total == 0, 1 / classes, shares)
            if "entropy" in measures:
                found["entropy"] = torch.special.entr(probabilities).sum(dim=1) / math.log(max(2, classes))
            if "probabilities" in measures:
                found["probabilities"] = probabilities
        return found


def predictor_of(source: Predictor | Scorer) -> Pipeline:
    """The pipeline of a model, or of a function, whose scores are taken for logits."""
    if isinstance(source, Pipeline):
        return source
    # Not by isinstance, which from Python 3.12 on misses the attributes that a compiled model forwards.
    if hasattr(source, "lazy_scores"):
        model, are_logits = cast(Predictor, source), getattr(source, "scores_are_logits", True)
        return Pipeline(lambda images: model.lazy_scores(to_float(whole(images))), scores_are_logits=are_logits)
    return Pipeline(lambda images: InMemory(source(to_float(whole(images)))))


def device_within(shape: tuple[int, ...], device: torch.device, budget: float | None) -> torch.device:
    """Return where scores of this shape are assembled: on `device` unless they exceed the budget [GiB]."""
    # float32 scores [GiB]
    needed = math.prod(shape) * torch.float32.itemsize / 2**30
    return torch.device("cpu") if budget is not None and needed > budget else device


def to_batch(image: ImageLike, data: DataRecipe) -> tuple[Tensor, bool]:
    """Images b×c×H×W as floats in [0, 1], and whether one image was given rather than a batch.

    A path is read as training reads it. A PIL image is converted as a file is, turned as its EXIF orientation says; a
    NumPy array is H×W×c, a tensor c×H×W or b×c×H×W. Integers are stored values: `data.value_range` scales them as it
    does files, and without one 8 and 16 bits are scaled to [0, 1]. Floats of arrays and tensors are in [0, 1] already,
    whatever the range; those of a PIL image are stored values.

    Raises:
        ValueError: The type, the shape, the number of channels or the range of the values is wrong.
    """
    from semask.data.readers.image import SIXTEEN_BIT, to_rgb
    from semask.data.readers.raster import pillow_samples, read_raster, scale_samples

    channels, value_range = data.channels, data.value_range
    if isinstance(image, str | Path):
        image = read_raster(str(image), data)
    if hasattr(image, "getexif"):
        from PIL import ImageOps

        pillow = cast("Image", image)
        if channels != 3 or value_range is not None or pillow.mode in SIXTEEN_BIT:
            stored = pillow_samples(pillow, channels)
            image = scale_samples(stored.repeat(channels // len(stored), axis=0), value_range)
        else:
            image = np.array(to_rgb(ImageOps.exif_transpose(pillow)))
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if channels == 3 and array.ndim == 3 and array.shape[-1] == 1:  # grey, as it is read from files
            array = array.repeat(channels, axis=-1)
        native = array.dtype.newbyteorder("=")
        image = torch.from_numpy(np.require(array, native, requirements=["C", "W"])).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is a path, a PIL image, a NumPy array or a tensor, got {type(image).__name__}")
    single = image.ndim == 3
    batch = image[None] if single else image
    if batch.ndim != 4 or batch.shape[1] != channels or 0 in batch.shape:
        raise ValueError(
            f"the model reads images of {channels} channels, c×H×W or b×c×H×W (NumPy: H×W×c), got {tuple(image.shape)}"
        )
    return _to_unit(batch, value_range), single


def _to_unit(batch: Tensor, value_range: tuple[float, float] | None) -> Float[Tensor, "b c H W"]:
    """Integers scaled to [0, 1], or floats that are there already."""
    from semask.data.readers.raster import scale_samples

    if value_range is not None and not (batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool):
        return scale_samples(batch.cpu().numpy(), value_range).to(batch.device)
    if batch.dtype == torch.uint8:
        return to_float(batch)
    if batch.dtype == torch.uint16:
        return batch.float() / 65535
    if not batch.is_floating_point():
        raise ValueError(f"images are 8-bit, 16-bit (unsigned) or floats in [0, 1], got {batch.dtype}")
    batch = batch.float()
    low, high = (float(value) for value in batch.aminmax())
    if not (low >= 0 and high <= 1):  # also NaN
        cure = "divide 8-bit values by 255"
        if value_range is not None:
            black, white = value_range
            cure = f"give stored values as integers, of which data.value_range {black:g} {white:g} become 0 and 1"
        raise ValueError(f"float images have values in [0, 1], got {low:g} … {high:g}; {cure}")
    return batch
