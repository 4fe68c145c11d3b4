"""Blur of lenses, glass and movement."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage, signal

Pixels = Float[np.ndarray, "H W 3"]
SMALL_DISK = 8
"""Up to this radius [px] edges are softened over one pixel to each side, beyond it over two."""


def defocus_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Spread every pixel over a disk with soft edges."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[strength - 1]
    edge = 1 if radius <= SMALL_DISK else 2
    steps = np.arange(-radius - edge, radius + edge + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(float)
    kernel = ndimage.gaussian_filter(disk / disk.sum(), softness, mode="constant", radius=edge)
    corrupted: np.ndarray = np.clip(_convolved(pixels, kernel, "reflect"), 0.0, 1.0)
    return corrupted


def glass_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Blur, swap every pixel with one nearby some times, and blur again.

    Pixels that are too far apart to meet are swapped at once, so that their order is another than the paper's.
    """
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[strength - 1]
    shaken = _smoothed(pixels, sigma)
    height, width = shaken.shape[:2]
    apart = 2 * reach + 1
    for _ in range(times):
        for first in np.ndindex(apart, apart):
            rows, columns = (
                np.arange(reach + start, size - reach, apart)
                for start, size in zip(first, (height, width), strict=True)
            )
            here = np.meshgrid(rows, columns, indexing="ij")
            down, right = random.integers(-reach, reach, (2, len(rows), len(columns)))
            there = here[0] + down, here[1] + right
            shaken[here[0], here[1]], shaken[there] = shaken[there], shaken[here[0], here[1]]
    corrupted: np.ndarray = np.clip(_smoothed(shaken, sigma), 0.0, 1.0)
    return corrupted


def motion_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Move the camera along a line within 45 degrees of the horizon."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[strength - 1]
    return smear(pixels, radius=radius, sigma=sigma, angle=random.uniform(-45.0, 45.0))


def zoom_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Average the picture and enlargements of its middle."""
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[strength - 1]
    factors = np.arange(1.0, most, step)
    total = pixels + sum(zoomed(pixels, factor) for factor in factors)
    return np.clip(total / (len(factors) + 1), 0.0, 1.0)


def smear(
    pixels: Float[np.ndarray, "H W ..."], *, radius: int, sigma: float, angle: float
) -> Float[np.ndarray, "H W ..."]:
    """Spread every pixel along a line to one side, weighted by half a bell; `angle` [degrees], lengths [px]."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2.0 * sigma**2))
    down, right = (np.round(steps * part(math.radians(angle))).astype(int) for part in (math.sin, math.cos))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (2 * radius + down, 2 * radius + right), weights / weights.sum())
    corrupted: np.ndarray = np.clip(_convolved(pixels, kernel, "edge"), 0.0, 1.0)
    return corrupted


def zoomed(pixels: Float[np.ndarray, "H W ..."], factor: float) -> Float[np.ndarray, "H W ..."]:
    """Return the middle of a picture, `factor` ≥ 1 times as large."""
    height, width = pixels.shape[:2]
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - high) // 2, (width - wide) // 2
    middle = torch.from_numpy(pixels[top : top + high, left : left + wide].reshape(high, wide, -1)).permute(2, 0, 1)
    large = F.interpolate(middle[None], size=(height, width), mode="bilinear", align_corners=True)[0]
    enlarged: np.ndarray = large.permute(1, 2, 0).numpy().reshape(pixels.shape)
    return enlarged


def _smoothed(pixels: Pixels, sigma: float) -> Pixels:
    smooth: np.ndarray = ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    return smooth


def _convolved(
    pixels: Float[np.ndarray, "H W ..."], kernel: Float[np.ndarray, "h w"], border: str
) -> Float[np.ndarray, "H W ..."]:
    """Convolve every channel with a kernel of odd sides; `border` is numpy's name of what lies beyond."""
    high, wide = (side // 2 for side in kernel.shape)
    extra = [(0, 0)] * (pixels.ndim - 2)
    padded = np.pad(pixels, [(high, high), (wide, wide), *extra], mode=border)  # type: ignore[call-overload]
    shaped = kernel.reshape(*kernel.shape, *[1] * (pixels.ndim - 2))
    spread: np.ndarray = signal.fftconvolve(padded, shaped, mode="valid", axes=(0, 1))
    return spread
