"""The fifteen corruptions of ImageNet-C for pictures of any size, at five strengths each.

noise.py, blur.py, weather.py and digital.py hold them; every one is a function of a picture (H W 3 in [0, 1]), a
strength from 1 to 5 and random numbers. Lengths are in pixels, as in the paper, whose pictures are of 224 px.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(arXiv:1903.12261) §3.1, with the parameters of its authors' published script for ImageNet-C.
Differs: frost is drawn instead of pasted from photographs; glass swaps pixels in another order; the fields of elastic
are a share of the short side, and move the label along with the picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from semask.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from semask.data.corruptions.digital import contrast, elastic_grid, jpeg_compression, moved, pixelate
from semask.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from semask.data.corruptions.weather import brightness, fog, frost, snow

STRENGTHS = (1, 2, 3, 4, 5)
ELASTIC = "elastic_transform"
Corruption = Callable[[Float[np.ndarray, "H W 3"], int, np.random.Generator], Float[np.ndarray, "H W 3"]]

STILL: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""What leaves everything in its place."""
KINDS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", ELASTIC, "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in KINDS.values() for name in names)


def corrupt(
    image: Float[Tensor, "3 H W"], label: Integer[Tensor, "H W"], *, name: str, strength: int, key: str
) -> tuple[Float[Tensor, "3 H W"], Integer[Tensor, "H W"]]:
    """Return a corrupted picture, in 8-bit steps of [0, 1], and its label; `key` decides all chance.

    Raises:
        ValueError: there is no such corruption or strength.
    """
    if name not in CORRUPTIONS or strength not in STRENGTHS:
        raise ValueError(
            f"no corruption {name!r} of strength {strength}; there are {', '.join(CORRUPTIONS)}, of strengths 1 … 5"
        )
    # Keys are of file names, which may hold bytes that are no text.
    told = f"{key} {name} {strength}".encode("utf-8", "surrogatepass")
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(told).digest()[:16]))
    pixels = image.permute(1, 2, 0).double().numpy()
    if name == ELASTIC:
        follow = partial(moved, places=elastic_grid(label.shape, strength, random))
        return _picture(follow(pixels)), torch.from_numpy(follow(label.numpy()))
    return _picture(STILL[name](pixels, strength, random)), label


def _picture(pixels: np.ndarray) -> Tensor:
    eight = np.round(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.float32) / np.float32(255.0)
    return torch.from_numpy(np.ascontiguousarray(eight.transpose(2, 0, 1)))
