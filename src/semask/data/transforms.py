"""Training augmentation: resize, crop, flip, distort, pad. All chance comes from the generator handed in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from semask.data.photometric import distort
from semask.geometry import fit_size
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from semask.structures import IGNORE

CROP_ATTEMPTS = 10


class TrainTransform:
    """The recipe's augmentation of one picture.

    In this order: resize to base scale × ratio, random crop, flip, photometric distortion, to [0, 1], pad right and
    bottom where the picture is smaller than the crop, with `mean` (0 once the model normalises) and `IGNORE`.

    Source: SeMask recipes (mmsegmentation), with the paper's scales.
    """

    def __init__(self, data: DataRecipe, *, mean: tuple[float, float, float] = IMAGENET_MEAN) -> None:
        if data.scale_choices is not None and data.scale_range is not None:
            raise ValueError(
                f"scale_choices {data.scale_choices} and scale_range {data.scale_range} are both set; "
                "set the one to use and None for the other"
            )
        ratios = data.scale_choices if data.scale_choices is not None else data.scale_range or (1.0,)
        if not ratios or min(ratios) <= 0 or data.base_ratio <= 0 or min(data.crop) < 1:
            raise ValueError(
                f"scale ratios {ratios}, base_ratio {data.base_ratio} and crop {data.crop} must all be positive"
            )
        self.data = data
        self.mean = mean

    def __call__(
        self, image: UInt8[Tensor, "3 H W"], label: UInt8[Tensor, "H W"], random: np.random.Generator
    ) -> tuple[Float[Tensor, "3 h w"], UInt8[Tensor, "h w"]]:
        """Return a picture in [0, 1] and its label, both of the recipe's crop size."""
        image, label = self._resize(image, label, random)
        rows, columns = self._crop(label, random)
        image, label = image[:, rows, columns], label[rows, columns]
        if random.random() < self.data.flip:
            image, label = image.flip(-1), label.flip(-1)
        if self.data.photometric:
            image = distort(image, random)
        return self._pad(image.float().div_(255.0), label)

    def _resize(self, image: Tensor, label: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        height, width = label.shape
        # As semask.inference.rescaled: training and test sizes must not differ by a pixel.
        if self.data.base_scale is not None:
            size = fit_size(height, width, self.data.base_scale, self._ratio(random))
        else:
            size = fit_size(height, width, (height, width), self.data.base_ratio * self._ratio(random))
        if size == (height, width):
            return image, label
        # torch's bilinear kernel for 8 bits fails where one pixel is left.
        smooth = InterpolationMode.BILINEAR if size != (1, 1) else InterpolationMode.NEAREST
        resized = tv.resize(image, list(size), interpolation=smooth, antialias=False)
        return resized, tv.resize(label[None], list(size), interpolation=InterpolationMode.NEAREST)[0]

    def _ratio(self, random: np.random.Generator) -> float:
        if self.data.scale_choices is not None:
            return self.data.scale_choices[int(random.integers(len(self.data.scale_choices)))]
        if self.data.scale_range is not None:
            return float(random.uniform(*self.data.scale_range))
        return 1.0

    def _crop(self, label: Tensor, random: np.random.Generator) -> tuple[slice, slice]:
        """Draw a window; redraw while one class fills it, and take the last draw as it is."""
        window = self._draw_window(label, random)
        if self.data.category_cap >= 1.0:
            return window
        for _ in range(CROP_ATTEMPTS):
            if self._varied(label[window]):
                break
            window = self._draw_window(label, random)
        return window

    def _draw_window(self, label: Tensor, random: np.random.Generator) -> tuple[slice, slice]:
        (height, width), (high, wide) = label.shape, self.data.crop
        top = int(random.integers(max(height - high, 0) + 1))
        left = int(random.integers(max(width - wide, 0) + 1))
        return slice(top, top + high), slice(left, left + wide)

    def _varied(self, label: Tensor) -> bool:
        """Whether more than one class is there and none covers `category_cap` of the labelled pixels."""
        counts = np.bincount(label.numpy().ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < self.data.category_cap)

    def _pad(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        bottom, right = self.data.crop[0] - label.shape[0], self.data.crop[1] - label.shape[1]
        if bottom == 0 and right == 0:
            return image.contiguous(), label.contiguous()
        padded = torch.tensor(self.mean)[:, None, None].repeat(1, *self.data.crop)
        padded[:, : label.shape[0], : label.shape[1]] = image
        return padded, F.pad(label, (0, right, 0, bottom), value=IGNORE)
