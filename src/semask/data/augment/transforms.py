"""Training augmentation: resize, crop, flip, distort, pad. All chance comes from the generator handed in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from semask.data.augment.photometric import distort, distort_bands
from semask.data.readers.raster import ImageTensor, check_channels
from semask.ops.crop_resize import ResizedLabel, resize_window
from semask.ops.geometry import fit_size
from semask.ops.resize import to_float
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from semask.structures import IGNORE

CROP_ATTEMPTS = 10


class TrainTransform:
    """The recipe's augmentation of one picture: `view` decides what is seen of it, `finish` how it looks.

    In this order: resize to base scale × ratio, or to a drawn short side; random crop, flip; photometric distortion, to
    [0, 1], pad right and bottom where the picture is smaller than the crop, with the recipe's `padding` or `mean` (0
    once the model normalises), and with `IGNORE`.

    Source: SeMask recipes (mmsegmentation), with the paper's scales; Segmenter's are the same, with its own boxes;
    short sides, antialiasing and padding of mask classification (detectron2).
    Differs: detectron2 distorts colours before it flips, which are two sides of one thing. The rare crops are those of
    DAFormer (arXiv:2111.14887) §3.2, with the class drawn among those of the picture.
    """

    def __init__(
        self,
        data: DataRecipe,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        rarity: Float64[np.ndarray, " k"] | None = None,
    ) -> None:
        """`rarity` is how likely a crop is laid around each class, for recipes with `rare_crops`."""
        _check_scales(data)
        check_channels(data, mean)
        _check_shares(data)
        _check_reduced(data)
        if min(data.crop) < 1:
            raise ValueError(f"crop must be positive, (height, width) [px], got {data.crop}")
        if data.padding is not None and not 0 <= data.padding <= 1:
            raise ValueError(
                f"padding is a value of pixels in [0, 1], got {data.padding:g}; divide 8-bit values by 255, "
                "or give None for the mean"
            )
        self.data = data
        self.mean = mean
        self.rarity = rarity

    def __call__(
        self, image: ImageTensor, label: UInt8[Tensor, "H W"], random: np.random.Generator
    ) -> tuple[Float[Tensor, "c h w"], UInt8[Tensor, "h w"]]:
        """Return a picture in [0, 1] and its label, both of the recipe's crop size."""
        return self.finish(*self.view(image, label, random), random)

    def view(
        self,
        image: ImageTensor,
        label: UInt8[Tensor, "H W"],
        random: np.random.Generator,
        *,
        size: tuple[int, int] | None = None,
    ) -> tuple[ImageTensor, UInt8[Tensor, "h w"]]:
        """Resize, crop and flip; the outcome is smaller than the crop where the picture is.

        `size` is what `draw_size` gave, if it was asked before: the picture may then be smaller than its label.
        """
        height, width = label.shape
        size = size or self.draw_size(height, width, random)
        resized = ResizedLabel(label, size)
        window = self._crop(resized, random)
        seen, ids = resize_window(image, size, window, antialias=self.data.antialias), resized[window]
        return (seen.flip(-1), ids.flip(-1)) if random.random() < self.data.flip else (seen, ids)

    def finish(
        self, image: ImageTensor, label: UInt8[Tensor, "h w"], random: np.random.Generator
    ) -> tuple[Float[Tensor, "c h w"], UInt8[Tensor, "h w"]]:
        """Distort colours, go to [0, 1] and pad."""
        if self.data.photometric and image.shape[0] == 3 and image.dtype == torch.uint8:
            return self._pad(to_float(distort(image.contiguous(), random, hue=self.data.hue)), label)
        unit = to_float(image)
        return self._pad(distort_bands(unit, random) if self.data.photometric else unit, label)

    def draw_size(self, height: int, width: int, random: np.random.Generator) -> tuple[int, int]:
        """Draw the size that a picture of this one is resized to: the first of all draws."""
        if self.data.short_edges is not None:
            short = self.data.short_edges[int(random.integers(len(self.data.short_edges)))]
            return fit_size(height, width, (self.data.long_edge, short))
        # As semask.inference.rescaled: training and test sizes must not differ by a pixel.
        if self.data.base_scale is not None:
            return fit_size(height, width, self.data.base_scale, self._ratio(random))
        return fit_size(height, width, (height, width), self.data.base_ratio * self._ratio(random))

    def _ratio(self, random: np.random.Generator) -> float:
        if self.data.scale_choices is not None:
            return self.data.scale_choices[int(random.integers(len(self.data.scale_choices)))]
        if self.data.scale_range is not None:
            return float(random.uniform(*self.data.scale_range))
        return 1.0

    def _crop(self, label: ResizedLabel, random: np.random.Generator) -> tuple[slice, slice]:
        """Draw a window; redraw while one class fills it, and take the last draw as it is.

        Some are laid around a pixel of a rare class instead, and taken as they are.
        """
        if self.rarity is not None and random.random() < self.data.rare_crops:
            around = rare_window(label[:, :], self.data.crop, self.rarity, random)
            if around is not None:
                return around
        window = self._draw_window(label, random)
        if self.data.cat_max_ratio >= 1.0:
            return window
        for _ in range(CROP_ATTEMPTS):
            if self._varied(label[window]):
                break
            window = self._draw_window(label, random)
        return window

    def _draw_window(self, label: ResizedLabel, random: np.random.Generator) -> tuple[slice, slice]:
        (height, width), (high, wide) = label.shape, self.data.crop
        top = int(random.integers(max(height - high, 0) + 1))
        left = int(random.integers(max(width - wide, 0) + 1))
        return slice(top, top + high), slice(left, left + wide)

    def _varied(self, label: Tensor) -> bool:
        """Whether more than one class is there and none covers `cat_max_ratio` of the labelled pixels."""
        counts = np.bincount(label.numpy().ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < self.data.cat_max_ratio)

    def _pad(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        bottom, right = self.data.crop[0] - label.shape[0], self.data.crop[1] - label.shape[1]
        if bottom == 0 and right == 0:
            return image.contiguous(), label.contiguous()
        colour = self.mean if self.data.padding is None else (self.data.padding,) * len(self.mean)
        padded = torch.tensor(colour)[:, None, None].repeat(1, *self.data.crop)
        padded[:, : label.shape[0], : label.shape[1]] = image
        return padded, F.pad(label, (0, right, 0, bottom), value=IGNORE)


def rare_window(
    label: UInt8[Tensor, "H W"], crop: tuple[int, int], rarity: Float64[np.ndarray, " k"], random: np.random.Generator
) -> tuple[slice, slice] | None:
    """Return the window, within the picture, whose middle is nearest to a random pixel of a class drawn by `rarity`.

    Only classes that the label holds are drawn; None if there are none.
    """
    ids = label.numpy()
    weights = np.where(np.bincount(ids.ravel(), minlength=IGNORE + 1)[: len(rarity)] > 0, rarity, 0.0)
    if not weights.any():
        return None
    places = np.flatnonzero(ids == random.choice(len(weights), p=weights / weights.sum()))
    row, column = divmod(int(places[random.integers(len(places))]), ids.shape[1])
    (height, width), (high, wide) = ids.shape, crop
    top = min(max(row - high // 2, 0), max(height - high, 0))
    left = min(max(column - wide // 2, 0), max(width - wide, 0))
    return slice(top, top + high), slice(left, left + wide)


def _check_shares(data: DataRecipe) -> None:
    """Refuse probabilities that are none and a hue that turns nowhere."""
    for name in ("flip", "rare_crops", "copy_paste"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"data.{name} is a probability and lies in [0, 1], got {getattr(data, name):g}")
    if data.copy_paste_classes is not None and not data.copy_paste:
        raise ValueError(
            "data.copy_paste_classes says what to paste and data.copy_paste, how often, is 0; give --data.copy-paste "
            "a probability, or leave the classes out"
        )
    if data.hue[0] > data.hue[1]:
        raise ValueError(f"data.hue goes from the least turn to the greatest, got {data.hue[0]} {data.hue[1]}")


def _check_reduced(data: DataRecipe) -> None:
    """Refuse decoding at a reduced size of what is not read as RGB of 8 bits."""
    if data.jpeg_draft and (data.kind == "scenes" or data.channels != 3 or data.value_range is not None):
        raise ValueError(
            "data.jpeg_draft is for JPEG files in RGB, not for scenes, other channels or a value_range; say "
            "--data.jpeg-draft false"
        )


def _check_scales(data: DataRecipe) -> None:
    """Refuse two ways to draw a size at once, and sizes that are not positive."""
    jitters = {name: getattr(data, name) for name in ("scale_choices", "scale_range", "short_edges")}
    given = {name: values for name, values in jitters.items() if values is not None}
    told = " and ".join(f"{name} {values}" for name, values in given.items())
    if len(given) > 1:
        flags = " or ".join(f"--data.{name.replace('_', '-')} None" for name in given)
        raise ValueError(f"{told} exclude each other; set the one to use and None for the others ({flags})")
    if data.base_ratio <= 0 or not all(values and min(values) > 0 for values in given.values()):
        raise ValueError(f"{told or 'scales'} and base_ratio {data.base_ratio:g} must all be positive")
    if data.short_edges is not None and data.long_edge < max(data.short_edges):
        raise ValueError(
            f"long_edge must be at least the largest of short_edges {data.short_edges}, got {data.long_edge}"
        )
