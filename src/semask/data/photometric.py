"""Photometric distortion of 8-bit pictures, and the 8-bit HSV it works in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-18, 17)
HUES = 180
"""Hue is counted in steps of two degrees."""
STRIP = 2**15
"""Pixels converted at once; their numbers fit into a core's cache."""


def distort(
    image: UInt8[Tensor, "3 H W"], random: np.random.Generator, *, hue: tuple[int, int] = HUE
) -> UInt8[Tensor, "3 H W"]:
    """Change brightness, contrast, saturation and hue, each with probability ½, in 8 bit after every step.

    Contrast comes before or after saturation and hue, by a coin; `hue` are the least and the greatest turn, both drawn.

    Source: SeMask recipes (mmsegmentation's PhotoMetricDistortion): ±32, ×[0.5, 1.5], ×[0.5, 1.5], [-18, 17] mod 180.
    Segmenter's is that one; detectron2's ColorAugSSDTransform differs in a hue of [-18, 18] alone.
    """
    if _coin(random):
        image = _truncated(image.float() + random.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = _coin(random)
    if contrast_first:
        image = _contrast(image, random)
    if _coin(random):
        image = scale_saturation(image, random.uniform(*SATURATION))
    if _coin(random):
        image = shift_hue(image, int(random.integers(hue[0], hue[1] + 1)))
    return image if contrast_first else _contrast(image, random)


def distort_bands(image: Float[Tensor, "c H W"], random: np.random.Generator) -> Float[Tensor, "c H W"]:
    """Change brightness and contrast of any channels in [0, 1], as `distort` does but without rounding.

    Saturation and hue are of the three colours that an eye sees, and no more.
    """
    if _coin(random):
        image = (image + random.uniform(-BRIGHTNESS, BRIGHTNESS) / 255.0).clamp_(0.0, 1.0)
    return (image * random.uniform(*CONTRAST)).clamp_(0.0, 1.0) if _coin(random) else image


def scale_saturation(image: UInt8[Tensor, "3 H W"], factor: float) -> UInt8[Tensor, "3 H W"]:
    """Multiply the saturation."""
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb(torch.stack((hue, _truncated(saturation.float() * factor), value)))


def shift_hue(image: UInt8[Tensor, "3 H W"], steps: int) -> UInt8[Tensor, "3 H W"]:
    """Turn the hue by steps of two degrees."""
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb(torch.stack((((hue.short() + steps) % HUES).byte(), saturation, value)))


def rgb_to_hsv(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return hue 0 … 179 (two degrees each), saturation and value 0 … 255, rounded: OpenCV's 8-bit convention."""
    return _strip_by_strip(_hsv, image)


def hsv_to_rgb(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return RGB of `rgb_to_hsv`'s convention, rounded."""
    return _strip_by_strip(_rgb, image)


def _strip_by_strip(
    convert: Callable[[Float32[np.ndarray, "3 n"], UInt8[np.ndarray, "3 n"]], None], image: UInt8[Tensor, "3 H W"]
) -> UInt8[Tensor, "3 H W"]:
    """Convert so many pixels at a time that all that is between stays near the processor."""
    pixels = image.numpy().reshape(3, -1)
    out = np.empty_like(pixels)
    for first in range(0, pixels.shape[1], STRIP):
        strip = slice(first, first + STRIP)
        convert(pixels[:, strip].astype(np.float32), out[:, strip])
    return torch.from_numpy(out).view(image.shape)


def _hsv(rgb: Float32[np.ndarray, "3 n"], out: UInt8[np.ndarray, "3 n"]) -> None:
    red, green, blue = rgb
    highest = rgb.max(axis=0)
    spread = highest - rgb.min(axis=0)
    # Products with masks of 0 and 1 are several times faster than choosing by pixel.
    is_red = (highest == red).astype(np.float32)
    is_green = (highest == green) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    # degrees / 60, measured from the strongest channel; grey gives 0
    sector = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    sector /= np.maximum(spread, 1)
    sector += 2 * is_green + 4 * is_blue
    hue = np.rint(sector * np.float32(HUES / 6))
    out[0] = hue + HUES * (hue < 0).astype(np.float32)
    out[1] = np.rint(spread * 255 / np.maximum(highest, 1))
    out[2] = highest


def _rgb(hsv: Float32[np.ndarray, "3 n"], out: UInt8[np.ndarray, "3 n"]) -> None:
    hue, saturation, value = hsv[0] * np.float32(6 / HUES), hsv[1] / 255, hsv[2] / 255
    # The pure colours run along trapezoids of the hue, 0 … 6; saturation mixes white in.
    for channel, pure in enumerate((np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4))):
        white = 1 - (1 - pure.clip(0, 1)) * saturation
        out[channel] = np.rint(white * value * 255)


def _coin(random: np.random.Generator) -> bool:
    return bool(random.integers(2))


def _contrast(image: UInt8[Tensor, "3 H W"], random: np.random.Generator) -> UInt8[Tensor, "3 H W"]:
    return _truncated(image.float() * random.uniform(*CONTRAST)) if _coin(random) else image


def _truncated(values: Tensor) -> Tensor:
    """Return 8 bit, fractions cut off: the recipes never round here."""
    return values.clamp_(0.0, 255.0).byte()
