"""Photometric distortion of 8-bit pictures, and the 8-bit HSV it works in.

Pictures are changed strip by strip, each through all steps, so that what is between them stays in the processor's
cache. Between steps a strip holds whole numbers from 0 to 255 as float32: what 8 bits would hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-18, 17)
HUES = 180
"""Hue is counted in steps of two degrees."""
STRIP = 2**14
"""Pixels changed at once."""

Strip = Float32[np.ndarray, "3 n"]
Step = Callable[[Strip], Strip]


def distort(
    image: UInt8[Tensor, "3 H W"], random: np.random.Generator, *, hue: tuple[int, int] = HUE
) -> UInt8[Tensor, "3 H W"]:
    """Change brightness, contrast, saturation and hue, each with probability ½, in 8 bit after every step.

    Contrast comes before or after saturation and hue, by a coin; `hue` are the least and the greatest turn, both drawn.

    Source: SeMask recipes (mmsegmentation's PhotoMetricDistortion): ±32, ×[0.5, 1.5], ×[0.5, 1.5], [-18, 17] mod 180.
    Segmenter's is that one; detectron2's ColorAugSSDTransform differs in a hue of [-18, 18] alone.
    """
    steps: list[Step] = []
    if _coin(random):
        steps.append(_brightness(random.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_first = _coin(random)
    if contrast_first and _coin(random):
        steps.append(_contrast(random.uniform(*CONTRAST)))
    if _coin(random):
        steps.append(_saturation(random.uniform(*SATURATION)))
    if _coin(random):
        steps.append(_hue(int(random.integers(hue[0], hue[1] + 1))))
    if not contrast_first and _coin(random):
        steps.append(_contrast(random.uniform(*CONTRAST)))
    return _changed(image, steps)


def distort_bands(image: Float[Tensor, "c H W"], random: np.random.Generator) -> Float[Tensor, "c H W"]:
    """Change brightness and contrast of any channels in [0, 1], as `distort` does but without rounding.

    Saturation and hue are of the three colours that an eye sees, and no more.
    """
    if _coin(random):
        image = (image + random.uniform(-BRIGHTNESS, BRIGHTNESS) / 255.0).clamp_(0.0, 1.0)
    return (image * random.uniform(*CONTRAST)).clamp_(0.0, 1.0) if _coin(random) else image


def scale_saturation(image: UInt8[Tensor, "3 H W"], factor: float) -> UInt8[Tensor, "3 H W"]:
    """Multiply the saturation."""
    return _changed(image, [_saturation(factor)])


def shift_hue(image: UInt8[Tensor, "3 H W"], steps: int) -> UInt8[Tensor, "3 H W"]:
    """Turn the hue by steps of two degrees."""
    return _changed(image, [_hue(steps)])


def rgb_to_hsv(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return hue 0 … 179 (two degrees each), saturation and value 0 … 255, rounded: OpenCV's 8-bit convention."""
    return _changed(image, [_to_hsv])


def hsv_to_rgb(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return RGB of `rgb_to_hsv`'s convention, rounded."""
    return _changed(image, [_to_rgb])


def _changed(image: UInt8[Tensor, "3 H W"], steps: Sequence[Step]) -> UInt8[Tensor, "3 H W"]:
    if not steps:
        return image
    pixels = image.numpy().reshape(3, -1)
    out = np.empty_like(pixels)
    for first in range(0, pixels.shape[1], STRIP):
        strip: np.ndarray = pixels[:, first : first + STRIP].astype(np.float32)
        for step in steps:
            strip = step(strip)
        out[:, first : first + STRIP] = strip
    return torch.from_numpy(out).view(image.shape)


def _brightness(shift: float) -> Step:
    return lambda rgb: _truncated(rgb + np.float32(shift))


def _contrast(factor: float) -> Step:
    return lambda rgb: _truncated(rgb * np.float32(factor))


def _saturation(factor: float) -> Step:
    def scale(rgb: Strip) -> Strip:
        hsv = _to_hsv(rgb)
        hsv[1] = _truncated(hsv[1] * np.float32(factor))
        return _to_rgb(hsv)

    return scale


def _hue(steps: int) -> Step:
    def turn(rgb: Strip) -> Strip:
        hsv = _to_hsv(rgb)
        hsv[0] = np.mod(hsv[0] + np.float32(steps), HUES)
        return _to_rgb(hsv)

    return turn


def _to_hsv(rgb: Strip) -> Strip:
    red, green, blue = rgb
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    # Products with masks of 0 and 1 are several times faster than choosing by pixel.
    is_red = (highest == red).astype(np.float32)
    is_green = (highest == green) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    # degrees / 60, measured from the strongest channel; grey gives 0
    sector = (green - blue) * is_red + (blue - red) * is_green + (red - green) * is_blue
    sector /= np.maximum(spread, 1)
    sector += 2 * is_green + 4 * is_blue
    hsv = np.empty_like(rgb)
    np.rint(sector * np.float32(HUES / 6), out=hsv[0])
    hsv[0] += (hsv[0] < 0).astype(np.float32) * HUES
    np.rint(spread * 255 / np.maximum(highest, 1), out=hsv[1])
    hsv[2] = highest
    return hsv


def _to_rgb(hsv: Strip) -> Strip:
    hue, saturation, value = hsv[0] * np.float32(6 / HUES), hsv[1] / 255, hsv[2] / 255
    rgb = np.empty_like(hsv)
    # The pure colours run along trapezoids of the hue, 0 … 6; saturation mixes white in.
    for channel, pure in enumerate((np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4))):
        white = 1 - (1 - pure.clip(0, 1)) * saturation
        np.rint(white * value * 255, out=rgb[channel])
    return rgb


def _coin(random: np.random.Generator) -> bool:
    return bool(random.integers(2))


def _truncated(values: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """Return 8 bit, fractions cut off: the recipes never round here."""
    whole: np.ndarray = np.floor(np.clip(values, 0, 255, out=values), out=values)
    return whole
