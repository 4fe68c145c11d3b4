"""What turns images into scores, or into label maps without ever holding the scores of a whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from semask.ops.argmax import check_classes, label_map
from semask.ops.lazy_scores import Bands, Held, best_class, gather, walk
from semask.ops.resize import as_unit

Images = Float[Tensor, "b c H W"] | UInt8[Tensor, "b c H W"]
"""In [0, 1], or bytes: these become floats where a model sees them, a window at a time."""
Scorer = Callable[[Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]
"""A plain function from images to scores; those of `Predictor.logits`' kind unless said otherwise."""


@runtime_checkable  # for the tests, which check the types in annotations
class Model(Protocol):
    """What predictors ask of a model."""

    @property
    def size_multiple(self) -> int:
        """Return what the model pads the sides of images to [px]: the patch of a ViT, the stride of a pyramid."""

    @property
    def scores_are_logits(self) -> bool:
        """Return whether the softmax of scores is the probability; mask classifiers' are averaged as they are."""

    def bands(self, images: Float[Tensor, "b c H W"], /) -> Bands:
        """Return class scores at the images' size."""

    def prior_bands(self, images: Float[Tensor, "b c H W"], /) -> Bands:
        """Return the semantic prior at the images' size; a ValueError where there is none."""


class Labelled(NamedTuple):
    """The best class of every pixel, and its probability: of a mask classifier, its share of the summed scores."""

    labels: UInt8[Tensor, "b H W"]
    confidence: Float[Tensor, "b H W"]


class Predictor:
    """Images (b c H W), floats in [0, 1] or bytes, to scores (b k H W); or to label maps, a band of rows at a time.

    logits: whether the softmax of the scores is the probability; if not, their share of the sum over classes is.
    memory_budget: [GiB] whole scores that a call returns are put together in the processor's memory when they need
    more; None never does that. Label maps need no whole scores.
    """

    def __init__(
        self,
        bands: Callable[[Images], Bands],
        *,
        logits: bool = True,
        memory_budget: float | None = None,
    ) -> None:
        _check_budget(memory_budget)
        self.bands = bands
        self.logits = logits
        self.memory_budget = memory_budget

    def __call__(self, images: Images) -> Float[Tensor, "b k H W"]:
        """Return the scores; gradients are recorded if the caller lets them."""
        bands = self.bands(images)
        over = place(bands.shape, images.device, self.memory_budget) != images.device
        return gather(bands, device="cpu" if over else None)

    def labels(self, images: Images) -> UInt8[Tensor, "b H W"]:
        """Return the best class of every pixel.

        A FloatingPointError tells scores that are no numbers: labels cannot, and would be of one class.
        """
        return label_map(self.bands(images))

    def labelled(self, images: Images) -> Labelled:
        """Return the best class of every pixel and its probability, nan where scores are no numbers."""
        bands = self.bands(images)
        check_classes(bands.shape[1])
        batch, _, height, width = bands.shape
        labels = torch.empty((batch, height, width), dtype=torch.uint8, device=bands.device)
        confidence = torch.empty((batch, height, width), dtype=torch.float32, device=bands.device)
        for first, last, scores in walk(bands):
            labels[:, first:last] = best_class(scores)
            confidence[:, first:last] = self._share_of_best(scores)
        return Labelled(labels, confidence)

    def _share_of_best(self, scores: Float[Tensor, "b k r W"]) -> Float[Tensor, "b r W"]:
        best = scores.amax(dim=1)
        if self.logits:
            return 1 / (scores - best[:, None]).exp_().sum(dim=1)
        # Where no query has a mask all scores are 0, and no class is more likely than another.
        return torch.where(best == 0, 1 / scores.shape[1], best / scores.sum(dim=1))


def predictor_of(source: Model | Predictor | Scorer) -> Predictor:
    """Return a predictor of a model, or of a function, whose scores are taken for logits."""
    if isinstance(source, Predictor):
        return source
    # Not by isinstance, which from Python 3.12 on sees no attributes that a compiled model passes on.
    if hasattr(source, "bands"):
        model = cast(Model, source)
        return Predictor(lambda images: model.bands(as_unit(images)), logits=model.scores_are_logits)
    return Predictor(lambda images: Held(source(as_unit(images))))


def place(shape: tuple[int, ...], device: torch.device, budget: float | None) -> torch.device:
    """Return where scores of this shape are made: on `device` unless they take more than the budget [GiB]."""
    needed = math.prod(shape) * torch.float32.itemsize / 2**30
    return torch.device("cpu") if budget is not None and needed > budget else device


def _check_budget(memory_budget: float | None) -> None:
    """Refuse a budget of nothing."""
    if memory_budget is not None and not memory_budget > 0:
        raise ValueError(
            f"memory_budget must be more than 0 GiB, got {memory_budget}; None leaves scores on the model's device"
        )
