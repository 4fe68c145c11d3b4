"""The model: normalise, pad, encode, decode, and bring the answer back to the image's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from semask.models.fusion import Group, join_layers
from semask.models.layers.linear import adopt_linear
from semask.ops.argmax import compilable_label_map
from semask.ops.lazy_scores import Crop, LazyScores
from semask.ops.resize import check_range, pad_images, padding_to_multiple, resize, size_of
from semask.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe
from semask.structures import IGNORE, Decoder, Encoder, Features, LabelMap, MaskLogits, PixelLogits, Segmentation

if TYPE_CHECKING:
    from semask.data.classes import Classes
    from semask.inference.predictor import ImageLike


PROBE = 64
"""Side of the image [px] by which `fuse` sees which layers follow each other."""


class SegmentationModel(nn.Module):
    """An encoder and a decoder, with everything that must be the same in training, evaluation and export.

    Images are RGB floats in [0, 1] of any size ≥ 1×1. They are normalised with the buffers `mean` and `std`, then
    padded with zeros at the right and bottom to a multiple of what encoder and decoder need (1 for Swin, which pads
    itself, under a per-pixel decoder; 32 under a mask classifier). Under an encoder of a fixed size they are padded up
    to that, and larger ones are refused: those are read through sliding windows.

    Attributes:
        size_multiple: The sides of images are padded to multiples of this [px]: 1, a ViT's patch, a pyramid's stride.
        fixed_size: (height, width) [px] that every image is padded up to; None: images of any size.
        channels_last: The encoder exchanges maps b h w c; memory formats are left alone.
        classifies_masks: The decoder predicts masks, each with a class.
        has_auxiliary: The decoder predicts from earlier layers or maps too.
        scores_are_logits: The softmax of `scores` is the probability; not so for a mask classifier.
        classes: Names and colours of the classes, from the checkpoint that was loaded; None: unknown.
    """

    encoder: Any  # Encoder and nn.Module
    decoder: Any  # Decoder and nn.Module
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        num_classes: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        recipe: Recipe | None = None,
    ) -> None:
        """`recipe` describes the parts; None: no recipe can."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        adopt_linear(self)
        self.num_classes, self.recipe = num_classes, recipe
        self.classes: Classes | None = None
        self._groups: list[Group] | None = None
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        # what the protocols of encoder and decoder leave optional
        coarsest = int(max(getattr(encoder, "strides", (1,))))
        own = getattr(encoder, "size_multiple", coarsest), getattr(decoder, "size_multiple", 1)
        self.size_multiple: int = math.lcm(*own)
        self.fixed_size: tuple[int, int] | None = getattr(encoder, "fixed_size", None)
        self.channels_last: bool = getattr(encoder, "channels_last", False)
        self.classifies_masks: bool = getattr(decoder, "classifies_masks", False)
        self.has_auxiliary: bool = getattr(decoder, "has_auxiliary", False)
        self.scores_are_logits = not self.classifies_masks

    def fuse(self) -> Self:
        """Join layers for prediction on the CPU, and return the model: labels to rounding, in half of the time or more.

        BatchNorm becomes part of the convolution before it, activations of what they follow, and maps lie channels
        last. Joined convolutions take a second copy of their weights, which `train()` gives back. Parameters, names and
        hooks stay; where gradients are recorded, layers run as they were written. `predict`, `semask evaluate` and all
        that takes a recipe's predictor do this by themselves.
        """
        if self._groups is None and self.mean.device.type == "cpu":
            self._groups = join_layers(self, type(self).decode_main, self.fixed_size or (PROBE, PROBE), len(self.mean))
        return self

    def train(self, mode: bool = True) -> Self:
        if mode:
            for group in self._groups or ():
                group.packed = None
        return super().train(mode)

    @property
    def semantic_layers(self) -> Sequence[nn.Module]:
        """The encoder's semantic layers, or the probes in their place, one per stage; none of a plain encoder."""
        return getattr(self.encoder, "semantic", ())

    def forward(self, images: Float[Tensor, "b c H W"]) -> Segmentation:
        """Return the main prediction and the semantic prior, each at its grid of the padded image."""
        return self.decode(self.encode(images))

    def decode(self, features: Features) -> Segmentation:
        prior = self._prior(features) if features.priors else None
        return Segmentation(self.decoder(features), prior)

    def encode(self, images: Float[Tensor, "b c H W"]) -> Features:
        return self.encoder(self.prepare(images))

    def prepare(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c PH PW"]:
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point() or 0 in images.shape:
            raise ValueError(
                f"images must be floats (b, {channels}, H, W) in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)}. Divide uint8 images by 255 and put the channels first."
            )
        height, width = images.shape[-2:]
        if self.fixed_size is not None and (height > self.fixed_size[0] or width > self.fixed_size[1]):
            tall, wide = self.fixed_size
            raise ValueError(
                f"this encoder takes images of up to {tall}×{wide} px, not {height}×{width}; use sliding windows "
                f"(--test.mode sliding --test.window {tall} {wide}) and, in training, a smaller --data.crop, or build "
                "it for larger ones (--model.encoder.image-size HEIGHT WIDTH)"
            )
        images = images.to(self.mean.dtype)  # NumPy's floats have 64 bits
        normalised = (images - self.mean).div_(self.std)  # in place: of a large photograph a copy less
        return pad_images(normalised, *self._padding(height, width))

    def scores(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Return class scores at the image's size: logits of per-pixel decoders, sums of masks of mask classifiers.

        One graph of plain operations, as an export wants it.
        """
        height, width = images.shape[-2:]
        return self.decode_main(images).scores(self.padded_size(height, width))[..., :height, :width]

    def decode_main(self, images: Float[Tensor, "b c H W"]) -> PixelLogits | MaskLogits:
        """Return the main prediction alone: neither the prior nor predictions of earlier layers are computed."""
        options = {"auxiliary": False} if self.has_auxiliary else {}
        # Handed on, not kept, and without the priors: they need not be there while the decoder runs.
        return self.decoder(self.encode(images)._replace(priors=()), **options)

    def lazy_scores(self, images: Float[Tensor, "b c H W"]) -> LazyScores:
        """Return what `scores` returns, computed row block by row block: large images need much less memory."""
        return self._at_image(self.decode_main(images), images)

    def lazy_prior(self, images: Float[Tensor, "b c H W"]) -> LazyScores:
        """Return the semantic prior at the image's size.

        Raises:
            ValueError: The encoder has no semantic layers.
        """
        features = self.encode(images)
        if not features.priors:
            raise ValueError("this model has no semantic layers and so no semantic prior; use a semask recipe")
        return self._at_image(self._prior(features), images)

    def labels(self, images: Float[Tensor, "b c H W"]) -> UInt8[Tensor, "b H W"] | Integer[Tensor, "b H W"]:
        """Return the class of every pixel by the network alone: uint8 for up to 256 classes, int64 beyond.

        Scale, windows and flips of the recipe are left to `predict`. Compiled or exported, it is one graph.

        Raises:
            ValueError: Values lie outside [0, 1].
            FloatingPointError: Scores are NaN.
        """
        check_range(images)
        if self.num_classes > 256:
            return self.scores(images).argmax(dim=1)
        return compilable_label_map(lambda: self.lazy_scores(images), lambda: self.scores(images))

    def predict(
        self, image: ImageLike, *, device: torch.device | str | None = None, **test: Any
    ) -> UInt8[LabelMap, "*b H W"]:
        """Label map of an image, or of a batch of images of one size, at its own size.

        Images are read by the model's recipe: at its scale, in its windows, with its flips. `semask predict` and
        `semask evaluate` give the same labels. Notebooks show the map in the colours of `classes`.

        Args:
            image: A path, a PIL image, a NumPy array H×W×c, or a tensor c×H×W or b×c×H×W; 8-bit, or floats in [0, 1].
            device: Device that the image goes to; None: the model's.
            **test: Fields of `semask.TestRecipe` that differ from the model's recipe, such as `mode="sliding"`,
                `window=(512, 512)`, `scales=(0.75, 1.0)` or `flip=True`. Giving `window` chooses sliding windows.

        Raises:
            ValueError: The image has another number of channels, or values outside its type's range.

        >>> import semask, torch
        >>> model = semask.build("scenes/semask-micro-fpn")
        >>> model.predict(torch.rand(3, 40, 60)).shape
        torch.Size([40, 60])
        """
        from semask.inference.single import predict_image

        return predict_image(self, image, device=device, **test)

    def export(self, out: str | Path, **options: Any) -> Path:
        """Write the model as a file for other runtimes, once it has shown that it is the same; see `semask.export`."""
        # by name, since exports are built on models
        written: Path = import_module("semask").export(self, out, **options)
        return written

    def pad_labels(self, labels: Integer[Tensor, "b H W"]) -> Integer[Tensor, "b PH PW"]:
        """Pad labels with `IGNORE` as the images are padded, so that they lie on the logits of `forward`."""
        bottom, right = self._padding(labels.shape[-2], labels.shape[-1])
        return F.pad(labels, (0, right, 0, bottom), value=IGNORE)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) [px] that an image is padded to."""
        bottom, right = self._padding(height, width)
        return height + bottom, width + right

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size[0] - height, self.fixed_size[1] - width
        return padding_to_multiple(height, width, self.size_multiple)

    def _prior(self, features: Features) -> PixelLogits:
        """Return the sum of the semantic maps of all stages at the grid of the first.

        Map i is doubled i times and then brought to the first map's size, which differs when sides are odd. Under mask
        classifiers all resizing aligns the corners.

        Source: SeMask §3.3; the two steps as in the authors' code and their ports to detectron2.
        """
        align = self.classifies_masks
        total = features.priors[0]
        for level, semantic in enumerate(features.priors[1:], start=1):
            for _ in range(level):
                semantic = F.interpolate(semantic, scale_factor=2.0, mode="bilinear", align_corners=align)  # noqa: PLW2901
            total = total + resize(semantic, size_of(total), align_corners=align)
        return PixelLogits(total, align_corners=align)

    def _at_image(self, prediction: PixelLogits | MaskLogits, images: Tensor) -> LazyScores:
        # to the padded image, whose padding is cut off
        height, width = images.shape[-2:]
        return Crop(prediction.lazy_scores(self.padded_size(height, width)), (height, width))
