"""Photometric distortion of 8-bit pictures, and the 8-bit HSV it works in."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-18, 17)
HUES = 180
"""Hue is counted in steps of two degrees."""


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
    red, green, blue = image.float()
    value = image.amax(0)
    highest = value.float()
    spread = highest - image.amin(0).float()
    safe = spread.clamp(min=1.0)
    # degrees / 60, measured from the strongest channel; grey gives 0
    sector = torch.where(
        highest == red,
        (green - blue) / safe,
        torch.where(highest == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    hue = sector.mul_(HUES / 6).round_()
    hue = torch.where(hue < 0, hue + HUES, hue)
    saturation = (spread * 255.0 / highest.clamp(min=1.0)).round_()
    return torch.stack((hue.byte(), saturation.byte(), value))


def hsv_to_rgb(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return RGB of `rgb_to_hsv`'s convention, rounded."""
    hue, saturation, value = image.float()
    hue, saturation, value = hue * (6 / HUES), saturation / 255.0, value / 255.0
    # The pure colours run along trapezoids of the hue, 0 … 6; saturation mixes white in.
    red, green, blue = (hue - 3.0).abs_().sub_(1.0), 2.0 - (hue - 2.0).abs_(), 2.0 - (hue - 4.0).abs_()
    pure = torch.stack((red, green, blue)).clamp_(0.0, 1.0)
    return pure.sub_(1.0).mul_(saturation).add_(1.0).mul_(value).mul_(255.0).round_().byte()


def _coin(random: np.random.Generator) -> bool:
    return bool(random.integers(2))


def _contrast(image: UInt8[Tensor, "3 H W"], random: np.random.Generator) -> UInt8[Tensor, "3 H W"]:
    return _truncated(image.float() * random.uniform(*CONTRAST)) if _coin(random) else image


def _truncated(values: Tensor) -> Tensor:
    """Return 8 bit, fractions cut off: the recipes never round here."""
    return values.clamp_(0.0, 255.0).byte()
