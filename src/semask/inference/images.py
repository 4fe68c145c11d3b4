"""Images of other libraries as the tensors that models read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semask.ops.resize import to_float

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = Image | np.ndarray[Any, Any] | Tensor


def to_batch(image: ImageLike, *, channels: int) -> tuple[Tensor, bool]:
    """Images b×c×H×W as floats in [0, 1], and whether one image was given rather than a batch.

    PIL images become RGB for models of three channels, turned as their EXIF orientation says; a NumPy array is H×W×c, a
    tensor c×H×W or b×c×H×W. 8 and 16 bits are scaled to [0, 1].

    Raises:
        ValueError: The type, the shape, the number of channels or the range of the values is wrong.
    """
    if hasattr(image, "getexif"):
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)  # type: ignore[arg-type]
        image = np.array(image.convert("RGB") if channels == 3 else image)
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        image = torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is a PIL image, a NumPy array or a tensor, got {type(image).__name__}")
    single = image.ndim == 3
    batch = image[None] if single else image
    if batch.ndim != 4 or batch.shape[1] != channels or 0 in batch.shape:
        raise ValueError(
            f"the model reads images of {channels} channels, c×H×W or b×c×H×W (NumPy: H×W×c), got {tuple(image.shape)}"
        )
    if batch.dtype == torch.uint8:
        return to_float(batch), single
    if batch.dtype == torch.uint16:
        return batch.float() / 65535, single
    if not batch.is_floating_point():
        raise ValueError(f"images are 8-bit, 16-bit (unsigned) or floats in [0, 1], got {batch.dtype}")
    batch = batch.float()
    low, high = (float(value) for value in batch.aminmax())
    if not (low >= 0 and high <= 1):  # also NaN
        raise ValueError(f"float images have values in [0, 1], got {low:g} … {high:g}; divide 8-bit values by 255")
    return batch, single
