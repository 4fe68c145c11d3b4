"""Training augmentation: resize, crop, flip, distort, pad, with the random generator of the caller."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from semask.data.augment.photometric import distort, distort_bands
from semask.data.readers.raster import ImageTensor, check_channels
from semask.ops.crop_resize import ResizedLabel, resize_window
from semask.ops.resize import fit_size, size_of, to_float
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from semask.structures import IGNORE

CROP_ATTEMPTS = 10


class TrainTransform:
    """The recipe's augmentation of one image: `view` changes its geometry, `finish` its colours.

    In this order: resize to base scale × ratio, or to a drawn short side; random crop, flip; photometric distortion, to
    [0, 1], pad right and bottom where the image is smaller than the crop, with the recipe's `padding` or `mean` (0
    once the model normalises), and with `IGNORE`.

    Source: SeMask recipes (mmsegmentation), with the paper's scales; Segmenter's are the same, with its own boxes;
    short sides, antialiasing and padding of mask classification (detectron2).
    Differs: detectron2 distorts colours before it flips, with the same result. The rare crops are those of DAFormer
    (arXiv:2111.14887) §3.2, with the class drawn among those of the image.
    """

    def __init__(
        self,
        data: DataRecipe,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        rarity: Float64[np.ndarray, " k"] | None = None,
    ) -> None:
        """`rarity` is the probability of each class to be the centre of a crop, for recipes with `rare_crops`."""
        check_channels(data, mean)
        _check(data)
        self.data, self.mean, self.rarity = data, mean, rarity

    def __call__(
        self, image: ImageTensor, label: UInt8[Tensor, "H W"], random: np.random.Generator
    ) -> tuple[Float[Tensor, "c h w"], UInt8[Tensor, "h w"]]:
        """Return an image in [0, 1] and its label, both of the recipe's crop size."""
        return self.finish(*self.view(image, label, random), random)

    def view(
        self,
        image: ImageTensor,
        label: UInt8[Tensor, "H W"],
        random: np.random.Generator,
        *,
        size: tuple[int, int] | None = None,
    ) -> tuple[ImageTensor, UInt8[Tensor, "h w"]]:
        """Resize, crop and flip; the result is smaller than the crop where the image is.

        `size` is the result of an earlier `draw_size`: the image may then be smaller than its label.
        """
        resized = ResizedLabel(label, size or self.draw_size(*size_of(label), random))
        window = self._draw_crop(resized, random)
        crop, ids = resize_window(image, resized.shape, window, antialias=self.data.antialias), resized[window]
        if random.random() < self.data.flip:
            crop, ids = crop.flip(-1), ids.flip(-1)
        if self.data.vertical_flip and random.random() < self.data.vertical_flip:
            crop, ids = crop.flip(-2), ids.flip(-2)
        if self.data.rotate:
            turns = int(random.integers(4)) if self.data.crop[0] == self.data.crop[1] else 2 * int(random.integers(2))
            crop, ids = (each.rot90(turns, (-2, -1)) for each in (crop, ids))
        return crop, ids

    def finish(
        self, image: ImageTensor, label: UInt8[Tensor, "h w"], random: np.random.Generator
    ) -> tuple[Float[Tensor, "c h w"], UInt8[Tensor, "h w"]]:
        """Distort colours, scale to [0, 1] and pad."""
        if self.data.photometric and image.shape[0] == 3 and image.dtype == torch.uint8:
            image = to_float(distort(image.contiguous(), random, hue=self.data.hue))
        else:
            image = distort_bands(to_float(image), random) if self.data.photometric else to_float(image)
        # pad right and bottom
        bottom, right = self.data.crop[0] - label.shape[0], self.data.crop[1] - label.shape[1]
        if bottom == 0 and right == 0:
            return image.contiguous(), label.contiguous()
        colour = self.mean if self.data.padding is None else (self.data.padding,) * len(self.mean)
        padded = torch.tensor(colour)[:, None, None].repeat(1, *self.data.crop)
        padded[:, : label.shape[0], : label.shape[1]] = image
        return padded, F.pad(label, (0, right, 0, bottom), value=IGNORE)

    def draw_size(self, height: int, width: int, random: np.random.Generator) -> tuple[int, int]:
        """Draw the size that an image of this one is resized to: the first of all draws."""
        data, ratio = self.data, 1.0
        if data.short_edges is not None:
            short = data.short_edges[int(random.integers(len(data.short_edges)))]
            return fit_size(height, width, (data.long_edge, short))
        if data.scale_choices is not None:
            ratio = data.scale_choices[int(random.integers(len(data.scale_choices)))]
        elif data.scale_range is not None:
            ratio = float(random.uniform(*data.scale_range))
        # as in inference, by the same function: training and test sizes must not differ by a pixel
        if data.base_scale is not None:
            return fit_size(height, width, data.base_scale, ratio)
        return fit_size(height, width, (height, width), data.base_ratio * ratio)

    def _draw_crop(self, label: ResizedLabel, random: np.random.Generator) -> tuple[slice, slice]:
        """Draw a window: some around a pixel of a rare class, others anew while one class fills them."""
        if self.rarity is not None and random.random() < self.data.rare_crops:
            around = rare_window(label[:, :], self.data.crop, self.rarity, random)
            if around is not None:
                return around
        (height, width), (high, wide) = label.shape, self.data.crop

        def draw() -> tuple[slice, slice]:
            top = int(random.integers(max(height - high, 0) + 1))
            left = int(random.integers(max(width - wide, 0) + 1))
            return slice(top, top + high), slice(left, left + wide)

        # redraw while one class fills the crop; the last draw stays
        window = draw()
        if self.data.cat_max_ratio >= 1.0:
            return window
        for _ in range(CROP_ATTEMPTS):
            if is_varied(label[window], self.data.cat_max_ratio):
                break
            window = draw()
        return window


def is_varied(label: UInt8[Tensor, "h w"], cat_max_ratio: float) -> bool:
    """Whether there is more than one class and none covers `cat_max_ratio` of the labelled pixels."""
    counts = np.bincount(label.numpy().ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < cat_max_ratio)


def rare_window(
    label: UInt8[Tensor, "H W"], crop: tuple[int, int], rarity: Float64[np.ndarray, " k"], random: np.random.Generator
) -> tuple[slice, slice] | None:
    """Return the window, within the image, whose centre is nearest to a random pixel of a class drawn by `rarity`.

    Only classes of the label are drawn; None if there are none.
    """
    ids = label.numpy()
    weights = np.where(np.bincount(ids.ravel(), minlength=IGNORE + 1)[: len(rarity)] > 0, rarity, 0.0)
    if not weights.any():
        return None
    # a random pixel of a random class, and the window around it
    places = np.flatnonzero(ids == random.choice(len(weights), p=weights / weights.sum()))
    row, column = divmod(int(places[random.integers(len(places))]), ids.shape[1])
    (height, width), (high, wide) = ids.shape, crop
    top = min(max(row - high // 2, 0), max(height - high, 0))
    left = min(max(column - wide // 2, 0), max(width - wide, 0))
    return slice(top, top + high), slice(left, left + wide)


def _check(data: DataRecipe) -> None:
    """Refuse values out of range, and fields that exclude each other."""
    # one way to draw a size, and positive sizes
    jitters = {name: getattr(data, name) for name in ("scale_choices", "scale_range", "short_edges")}
    given = {name: values for name, values in jitters.items() if values is not None}
    listed = " and ".join(f"{name} {values}" for name, values in given.items())
    if len(given) > 1:
        flags = " or ".join(f"--data.{name.replace('_', '-')} None" for name in given)
        raise ValueError(f"{listed} exclude each other; set the one to use and None for the others ({flags})")
    if data.base_ratio <= 0 or not all(values and min(values) > 0 for values in given.values()):
        raise ValueError(f"{listed or 'scales'} and base_ratio {data.base_ratio:g} must all be positive")
    if data.short_edges is not None and data.long_edge < max(data.short_edges):
        raise ValueError(
            f"long_edge must be at least the largest of short_edges {data.short_edges}, got {data.long_edge}"
        )
    if min(data.crop) < 1:
        raise ValueError(f"crop must be positive, (height, width) [px], got {data.crop}")
    # probabilities and colours
    for name in ("flip", "vertical_flip", "rare_crops", "copy_paste"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"data.{name} is a probability and lies in [0, 1], got {getattr(data, name):g}")
    if data.copy_paste_classes is not None and not data.copy_paste:
        raise ValueError(
            "data.copy_paste_classes names the classes to paste, but the probability data.copy_paste is 0; give "
            "--data.copy-paste a probability, or leave the classes out"
        )
    if data.hue[0] > data.hue[1]:
        raise ValueError(f"data.hue holds the least and the greatest turn, got {data.hue[0]} {data.hue[1]}")
    if data.padding is not None and not 0 <= data.padding <= 1:
        raise ValueError(
            f"padding is a value of pixels in [0, 1], got {data.padding:g}; divide 8-bit values by 255, "
            "or give None for the mean"
        )
    # decoding at a reduced size
    if data.jpeg_draft and (data.kind == "scenes" or data.channels != 3 or data.value_range is not None):
        raise ValueError(
            "data.jpeg_draft is for JPEG files in RGB, not for scenes, other channels or a value_range; use "
            "--data.jpeg-draft false"
        )
