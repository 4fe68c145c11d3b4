"""Resized images and labels of which only the window of a crop is computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from semask.ops.reference import is_reference

Image = UInt8[Tensor, "c _h _w"] | Float[Tensor, "c _h _w"]
Window = tuple[slice, slice]
"""Rows and columns, cut off at the border of the image."""
EIGHT_BIT_KERNEL = ("AVX2", "AVX512")
"""CPUs on which torch resizes bytes by integers, along one axis and then along the other."""


def resize_window(image: Image, size: tuple[int, int], window: Window, *, antialias: bool) -> Image:
    """Return a window of an image that is resized bilinearly to `size` (height, width).

    Of bytes, only the window's rows are resized to its width, and of these only its columns to its height: every value
    is that of the whole image resized, since torch rounds between the two steps, too.
    """
    if size == (image.shape[-2], image.shape[-1]):
        return image[:, *window]
    fast = image.dtype == torch.uint8 and image.shape[0] == 3 and min(size) > 1
    if is_reference() or not fast or torch.backends.cpu.get_cpu_capability() not in EIGHT_BIT_KERNEL:
        return _resize(image, size, antialias)[:, *window]
    (height, (tall, wide)), (rows, columns) = (image.shape[-2], size), window
    first, last, _ = rows.indices(tall)
    # The source's rows: a pixel more than bilinear weights reach, on both sides.
    reach = 2 + (max(1.0, height / tall) if antialias else 1.0)
    top = max(0, int((first + 0.5) * height / tall - reach))
    bottom = min(height, int((last - 0.5) * height / tall + reach) + 1)
    narrow = _resize(image[:, top:bottom], (bottom - top, wide), antialias)[:, :, columns]
    # At the source's height, so that weights are those of the whole; rows that are not filled are not read.
    filled = torch.empty(height, narrow.shape[2], 3, dtype=torch.uint8)
    filled[top:bottom] = narrow.permute(1, 2, 0)
    return _resize(filled.permute(2, 0, 1), (tall, narrow.shape[2]), antialias)[:, rows]


class ResizedLabel:
    """A label at another size, by the nearest pixel, whose windows are computed on access."""

    def __init__(self, label: UInt8[Tensor, "H W"], size: tuple[int, int]) -> None:
        self.shape, self._ids = size, label.numpy()
        # the nearest pixel along both axes, by torch's own rounding
        axes = (torch.arange(length, dtype=torch.float32)[None, None] for length in label.shape)
        nearest = (F.interpolate(axis, length)[0, 0].long().numpy() for axis, length in zip(axes, size, strict=True))
        self._rows, self._columns = nearest

    def __getitem__(self, window: Window) -> UInt8[Tensor, "h w"]:
        """Return a window."""
        rows, columns = window
        lines = self._ids[self._rows[rows]]
        return torch.from_numpy(lines.take(self._columns[columns], axis=1))


def _resize(image: Image, size: tuple[int, int], antialias: bool) -> Image:
    # torch's bilinear kernel for 8 bits fails where one pixel is left.
    smooth = InterpolationMode.BILINEAR if size != (1, 1) else InterpolationMode.NEAREST
    return tv.resize(image, list(size), interpolation=smooth, antialias=antialias)
