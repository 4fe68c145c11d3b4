"""What happens to pictures in cameras, programs and files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image
from scipy import fft, ndimage

Pixels = Float[np.ndarray, "H W 3"]
Places = Float[np.ndarray, "2 H W"]
"""Where each pixel is taken from: rows and columns."""


def contrast(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Bring every channel nearer to its mean."""
    mean = pixels.mean(axis=(0, 1))
    corrupted: np.ndarray = np.clip((pixels - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[strength - 1] + mean, 0.0, 1.0)
    return corrupted


def pixelate(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Make the picture small and large again, by the means of boxes."""
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[strength - 1]
    picture = _picture(pixels)
    small = (max(1, int(picture.width * factor)), max(1, int(picture.height * factor)))
    again = picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)
    return np.asarray(again) / 255.0


def jpeg_compression(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Save as a JPEG of low quality."""
    with io.BytesIO() as file:
        _picture(pixels).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[strength - 1])
        return np.asarray(Image.open(file)) / 255.0


def elastic_grid(size: tuple[int, ...], strength: int, random: np.random.Generator) -> Places:
    """Return where each pixel is taken from when the picture is sheared a little and its parts are pushed about.

    Shares of the short side: how far smooth random numbers in [-1, 1] push, how smooth they are, how far three corners
    move.
    """
    push, smooth, shear = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        strength - 1
    ]
    side = min(size)
    height, width = size
    middle, third = np.array([height // 2, width // 2], float), side // 3
    corners = middle + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved_corners = corners + random.uniform(-shear * side, shear * side, corners.shape)
    # One more pixel than nothing, or the three corners of a tiny picture are one.
    affine, *_ = np.linalg.lstsq(np.column_stack([moved_corners, np.ones(3)]), corners, rcond=None)
    places = np.mgrid[:height, :width].astype(float)
    sheared = np.einsum("ji,jhw->ihw", affine[:2], places) + affine[2][:, None, None]
    pushes = [_smoothed(random.uniform(-1.0, 1.0, (height, width)), smooth * side) * push * side for _ in range(2)]
    found: np.ndarray = sheared + np.stack(pushes)
    return found


def moved(values: Shaped[np.ndarray, "H W ..."], *, places: Places) -> Shaped[np.ndarray, "H W ..."]:
    """Take values from elsewhere: of pictures (H W 3) between pixels, of labels (H W) the nearest; mirrored outside."""
    if values.ndim == 2:
        label: np.ndarray = ndimage.map_coordinates(values, places, order=0, mode="reflect")
        return label
    channels: list[Any] = [
        ndimage.map_coordinates(values[..., c], places, order=1, mode="reflect") for c in range(values.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _smoothed(values: Float[np.ndarray, "H W"], sigma: float) -> Float[np.ndarray, "H W"]:
    """Blur by a bell of any width, mirrored at the borders: along cosines, which mirror themselves, it is a factor."""
    waves = [np.pi * np.arange(size) / size for size in values.shape]
    damped = np.exp(-0.5 * sigma**2 * (waves[0][:, None] ** 2 + waves[1] ** 2))
    smooth: np.ndarray = fft.idctn(fft.dctn(values) * damped)
    return smooth


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.round(pixels * 255.0).astype(np.uint8))
