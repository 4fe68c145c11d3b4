"""Photometric distortion of 8-bit images, and the 8-bit HSV it works in.

Images are processed strip by strip, each through all steps, so that intermediate values stay in the CPU's cache.
Between steps a strip holds whole numbers from 0 to 255 as float32: the values that 8 bits would hold.
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
"""Pixels of a strip."""

Strip = Float32[np.ndarray, "3 n"]
Step = Callable[[Strip], Strip]


def distort(
    image: UInt8[Tensor, "3 H W"], random: np.random.Generator, *, hue: tuple[int, int] = HUE
) -> UInt8[Tensor, "3 H W"]:
    """Change brightness, contrast, saturation and hue, each with probability ½, in 8 bit after every step.

    A coin decides whether contrast comes before or after saturation and hue; `hue` holds the least and the greatest
    turn, both drawn.

    Source: SeMask recipes (mmsegmentation's PhotoMetricDistortion): ±32, ×[0.5, 1.5], ×[0.5, 1.5], [-18, 17] mod 180.
    Segmenter's is that one; detectron2's ColorAugSSDTransform differs in a hue of [-18, 18] alone.
    """
    steps: list[Step] = []
    if _coin(random):
        steps.append(add(random.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_first = _coin(random)
    if contrast_first and _coin(random):
        steps.append(multiply(random.uniform(*CONTRAST)))
    if _coin(random):
        steps.append(saturate(random.uniform(*SATURATION)))
    if _coin(random):
        steps.append(turn_hue(int(random.integers(hue[0], hue[1] + 1))))
    if not contrast_first and _coin(random):
        steps.append(multiply(random.uniform(*CONTRAST)))
    return apply_steps(image, steps) if steps else image


def distort_bands(image: Float[Tensor, "c H W"], random: np.random.Generator) -> Float[Tensor, "c H W"]:
    """Change brightness and contrast of any channels in [0, 1], as `distort` does but without rounding.

    Saturation and hue are defined for RGB alone.
    """
    if _coin(random):
        image = (image + random.uniform(-BRIGHTNESS, BRIGHTNESS) / 255.0).clamp_(0.0, 1.0)
    return (image * random.uniform(*CONTRAST)).clamp_(0.0, 1.0) if _coin(random) else image


def apply_steps(image: UInt8[Tensor, "3 H W"], steps: Sequence[Step]) -> UInt8[Tensor, "3 H W"]:
    """Return the image after all steps."""
    pixels = image.numpy().reshape(3, -1)
    out = np.empty_like(pixels)
    for first in range(0, pixels.shape[1], STRIP):
        strip: np.ndarray = pixels[:, first : first + STRIP].astype(np.float32)
        for step in steps:
            strip = step(strip)
        out[:, first : first + STRIP] = strip
    return torch.from_numpy(out).view(image.shape)


def add(shift: float) -> Step:
    """Return the step that adds to the brightness."""
    return lambda rgb: _truncate(rgb + np.float32(shift))


def multiply(factor: float) -> Step:
    """Return the step that multiplies the contrast."""
    return lambda rgb: _truncate(rgb * np.float32(factor))


def saturate(factor: float) -> Step:
    """Return the step that multiplies the saturation."""

    def step(rgb: Strip) -> Strip:
        hsv = rgb_to_hsv(rgb)
        hsv[1] = _truncate(hsv[1] * np.float32(factor))
        return hsv_to_rgb(hsv)

    return step


def turn_hue(steps: int) -> Step:
    """Return the step that turns the hue by steps of two degrees."""

    def step(rgb: Strip) -> Strip:
        hsv = rgb_to_hsv(rgb)
        hsv[0] = np.mod(hsv[0] + np.float32(steps), HUES)
        return hsv_to_rgb(hsv)

    return step


def rgb_to_hsv(rgb: Strip) -> Strip:
    """Return hue 0 … 179 (two degrees each), saturation and value 0 … 255, rounded: OpenCV's 8-bit convention."""
    red, green, blue = rgb
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    # products with masks of 0 and 1 are several times faster than np.where
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


def hsv_to_rgb(hsv: Strip) -> Strip:
    """Return RGB of `rgb_to_hsv`'s convention, rounded."""
    hue, saturation, value = hsv[0] * np.float32(6 / HUES), hsv[1] / 255, hsv[2] / 255
    rgb = np.empty_like(hsv)
    # pure colours run along trapezoids of the hue, 0 … 6; saturation mixes white in
    for channel, pure in enumerate((np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4))):
        white = 1 - (1 - pure.clip(0, 1)) * saturation
        np.rint(white * value * 255, out=rgb[channel])
    return rgb


def _coin(random: np.random.Generator) -> bool:
    return bool(random.integers(2))


def _truncate(values: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """Return 8-bit values with fractions cut off, in place: the recipes never round here."""
    whole: np.ndarray = np.floor(np.clip(values, 0, 255, out=values), out=values)
    return whole
