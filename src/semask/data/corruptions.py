"""The fifteen corruptions of ImageNet-C for images of any size, at five strengths each.

Each is a function of an image (H W 3 in [0, 1]), a strength from 1 to 5 and a random generator. Lengths are in pixels,
as in the paper, whose images have 224 px.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(arXiv:1903.12261) §3.1, with the parameters of its authors' published script for ImageNet-C.
Differs: frost is drawn instead of pasted from photographs; glass swaps pixels in another order; the fields of elastic
are a share of the short side, and move the label along with the image.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from PIL import Image
from scipy import fft, ndimage, signal
from torch import Tensor

STRENGTHS = (1, 2, 3, 4, 5)
ELASTIC = "elastic_transform"
KINDS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", ELASTIC, "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in KINDS.values() for name in names)

SMALL_DISK = 8
"""Up to this radius [px] edges are softened over one pixel to each side, beyond it over two."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in brightness."""
ICE = np.array([0.83, 0.93, 1.0])
"""The colour of frost at its brightest."""

Pixels = Float[np.ndarray, "H W 3"]
Map = Float[np.ndarray, "H W"]
Generator = np.random.Generator


def corrupt(
    image: Float[Tensor, "3 H W"], label: Integer[Tensor, "H W"], *, name: str, strength: int, key: str
) -> tuple[Float[Tensor, "3 H W"], Integer[Tensor, "H W"]]:
    """Return a corrupted image, in 8-bit steps of [0, 1], and its label; `key` seeds the random numbers.

    Raises:
        ValueError: there is no such corruption or strength.
    """
    if name not in CORRUPTIONS or strength not in STRENGTHS:
        raise ValueError(
            f"no corruption {name!r} of strength {strength}; there are {', '.join(CORRUPTIONS)}, of strengths 1 … 5"
        )
    # keys are made of file names, which may hold bytes that are no text
    seed = f"{key} {name} {strength}".encode("utf-8", "surrogatepass")
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(seed).digest()[:16]))
    pixels = image.permute(1, 2, 0).double().numpy()
    if name == ELASTIC:
        grid = elastic_grid(label.shape, strength, random)
        pixels, label = warp(pixels, grid=grid), torch.from_numpy(warp(label.numpy(), grid=grid))
    else:
        pixels = STILL[name](pixels, strength, random)
    eight = np.round(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.float32) / np.float32(255.0)
    return torch.from_numpy(np.ascontiguousarray(eight.transpose(2, 0, 1))), label


# --- noise of sensors and of their failures ------------------------------------------------------------------------


def gaussian_noise(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Add noise of one variance, as in dim light."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    return _clip(pixels + random.normal(0.0, sigma, pixels.shape))


def shot_noise(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Count photons, so many for white."""
    photons = (60, 25, 12, 5, 3)[strength - 1]
    return _clip(random.poisson(pixels * photons) / photons)


def impulse_noise(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Turn this share of the samples black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[strength - 1]
    hit, white = random.random(pixels.shape) < share, random.random(pixels.shape) < 0.5
    return np.where(hit, white.astype(pixels.dtype), pixels)


# --- blur of lenses, glass and movement ----------------------------------------------------------------------------


def defocus_blur(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Spread every pixel over a disk with soft edges."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[strength - 1]
    edge = 1 if radius <= SMALL_DISK else 2
    steps = np.arange(-radius - edge, radius + edge + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(float)
    kernel = ndimage.gaussian_filter(disk / disk.sum(), softness, mode="constant", radius=edge)
    return _clip(_convolve(pixels, kernel, "reflect"))


def glass_blur(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Blur, swap every pixel with one nearby some times, and blur again."""
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[strength - 1]
    shaken = _blur(pixels, sigma)
    # pixels too far apart to meet are swapped at once, unlike in the paper
    apart = 2 * reach + 1
    for _ in range(times):
        for first in np.ndindex(apart, apart):
            rows, columns = (
                np.arange(reach + start, size - reach, apart)
                for start, size in zip(first, shaken.shape[:2], strict=True)
            )
            here = np.meshgrid(rows, columns, indexing="ij")
            down, right = random.integers(-reach, reach, (2, len(rows), len(columns)))
            there = here[0] + down, here[1] + right
            shaken[here[0], here[1]], shaken[there] = shaken[there], shaken[here[0], here[1]]
    return _clip(_blur(shaken, sigma))


def motion_blur(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Move the camera along a line within 45 degrees of the horizon."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[strength - 1]
    return smear(pixels, radius=radius, sigma=sigma, angle=random.uniform(-45.0, 45.0))


def zoom_blur(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Average the image and enlargements of its middle."""
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[strength - 1]
    factors = np.arange(1.0, most, step)
    return _clip((pixels + sum(zoom(pixels, factor) for factor in factors)) / (len(factors) + 1))


def smear(
    pixels: Float[np.ndarray, "H W ..."], *, radius: int, sigma: float, angle: float
) -> Float[np.ndarray, "H W ..."]:
    """Spread every pixel along a line to one side, weighted by half a Gaussian; `angle` [degrees], lengths [px]."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2.0 * sigma**2))
    down, right = (np.round(steps * part(math.radians(angle))).astype(int) for part in (math.sin, math.cos))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (2 * radius + down, 2 * radius + right), weights / weights.sum())
    return _clip(_convolve(pixels, kernel, "edge"))


def zoom(pixels: Float[np.ndarray, "H W ..."], factor: float) -> Float[np.ndarray, "H W ..."]:
    """Return the middle of an image, enlarged by `factor` ≥ 1."""
    height, width = pixels.shape[:2]
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - high) // 2, (width - wide) // 2
    middle = torch.from_numpy(pixels[top : top + high, left : left + wide].reshape(high, wide, -1)).permute(2, 0, 1)
    large = F.interpolate(middle[None], size=(height, width), mode="bilinear", align_corners=True)[0]
    enlarged: np.ndarray = large.permute(1, 2, 0).numpy().reshape(pixels.shape)
    return enlarged


# --- weather between the camera and the scene ----------------------------------------------------------------------


def snow(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Whiten the image and lay falling flakes over it, once as drawn and once rotated by 180 degrees."""
    mean, spread, size, least, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[strength - 1]
    flakes = zoom(random.normal(mean, spread, pixels.shape[:2]), size)
    flakes = _clip(np.where(flakes < least, 0.0, flakes))
    flakes = smear(flakes, radius=radius, sigma=sigma, angle=random.uniform(-135.0, -45.0))[..., None]
    light = (pixels @ LUMA)[..., None]
    white = kept * pixels + (1.0 - kept) * np.maximum(pixels, 1.5 * light + 0.5)
    return _clip(white + flakes + flakes[::-1, ::-1])


def frost(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Lay crystals of ice over the image."""
    kept, iced = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[strength - 1]
    return _clip(kept * pixels + iced * draw_frost(pixels.shape[:2], random)[..., None] * ICE)


def fog(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Lay clouds of light over the image."""
    density, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[strength - 1]
    brightest = pixels.max()
    clouded = pixels + density * draw_clouds(pixels.shape[:2], decay, random)[..., None]
    return _clip(clouded * brightest / (brightest + density))


def brightness(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Raise the value of every colour, keeping hue and saturation."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[strength - 1], 1.0)
    # black has neither hue nor saturation and becomes grey
    corrupted: np.ndarray = np.where(value > 0, pixels / np.where(value > 0, value, 1.0), 1.0) * raised
    return corrupted


def draw_clouds(size: tuple[int, int], decay: float, random: Generator) -> Map:
    """Return a cloudy field from 0 to 1 by midpoint displacement, each level `decay`² weaker than the last.

    Source: Fournier, Fussell and Carpenter, "Computer Rendering of Stochastic Models" (1982), on a field without edges.
    """
    side = 1 << max(1, (max(size) - 1).bit_length())
    field = np.zeros((side, side))
    step, reach = side, 1.0
    while step > 1:
        half = step // 2
        # middles of squares, from their corners
        corners = field[::step, ::step]
        square = corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))
        middles = square / 4 + random.uniform(-reach, reach, corners.shape)
        # middles of edges, from their ends and the middles beside them
        across = corners + np.roll(corners, -1, 1) + middles + np.roll(middles, 1, 0)
        down = corners + np.roll(corners, -1, 0) + middles + np.roll(middles, 1, 1)
        field[half::step, half::step] = middles
        field[::step, half::step] = across / 4 + random.uniform(-reach, reach, corners.shape)
        field[half::step, ::step] = down / 4 + random.uniform(-reach, reach, corners.shape)
        step, reach = half, reach / decay**2
    field -= field.min()
    return field[: size[0], : size[1]] / max(float(field.max()), 1e-12)


def draw_frost(size: tuple[int, int], random: Generator) -> Map:
    """Return the brightness of ice, 0 … 1: needles in bundles of a few directions, of varying thickness."""
    thickness = draw_clouds(size, 1.6, random)
    needles = np.zeros(size)
    for scale in (1.0, 2.0, 4.0):
        for _ in range(4):
            seeds = zoom((random.random(size) < 0.012).astype(float), scale)
            streaks = smear(seeds, radius=int(10 * scale), sigma=6.0 * scale, angle=random.uniform(0.0, 360.0))
            needles = np.maximum(needles, streaks / max(float(streaks.max()), 1e-12))
    veil = ndimage.gaussian_filter(needles, 2.0)
    return _clip(0.25 + 0.55 * thickness + 0.9 * thickness * needles + 0.4 * veil - 0.15)


# --- effects of cameras, programs and files ------------------------------------------------------------------------


def contrast(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Bring every channel nearer to its mean."""
    mean = pixels.mean(axis=(0, 1))
    return _clip((pixels - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[strength - 1] + mean)


def pixelate(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Shrink and enlarge the image by box filters."""
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[strength - 1]
    image = _to_pil(pixels)
    small = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    again = image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)
    return np.asarray(again) / 255.0


def jpeg_compression(pixels: Pixels, strength: int, random: Generator) -> Pixels:
    """Save as a JPEG of low quality."""
    with io.BytesIO() as file:
        _to_pil(pixels).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[strength - 1])
        return np.asarray(Image.open(file)) / 255.0


def elastic_grid(size: tuple[int, ...], strength: int, random: Generator) -> Float[np.ndarray, "2 H W"]:
    """Return the source (rows, columns) of each pixel of an image that is sheared a little and locally displaced."""
    # shares of the short side: displacements in [-1, 1] times push, their smoothness, the shift of three corners
    push, smooth, shear = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        strength - 1
    ]
    side = min(size)
    height, width = size
    middle, third = np.array([height // 2, width // 2], float), side // 3
    corners = middle + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved_corners = corners + random.uniform(-shear * side, shear * side, corners.shape)
    # least squares, since the three corners of a tiny image are one
    affine, *_ = np.linalg.lstsq(np.column_stack([moved_corners, np.ones(3)]), corners, rcond=None)
    sheared = np.einsum("ji,jhw->ihw", affine[:2], np.mgrid[:height, :width].astype(float)) + affine[2][:, None, None]
    pushes = [_blur_widely(random.uniform(-1.0, 1.0, size), smooth * side) * push * side for _ in range(2)]
    grid: np.ndarray = sheared + np.stack(pushes)
    return grid


def _blur_widely(values: Map, sigma: float) -> Map:
    """Apply a Gaussian blur of any width, mirrored at the borders: on cosines, which mirror themselves, a factor."""
    waves = [np.pi * np.arange(size) / size for size in values.shape]
    damped = np.exp(-0.5 * sigma**2 * (waves[0][:, None] ** 2 + waves[1] ** 2))
    smooth: np.ndarray = fft.idctn(fft.dctn(values) * damped)
    return smooth


def warp(values: Shaped[np.ndarray, "H W ..."], *, grid: Float[np.ndarray, "2 H W"]) -> Shaped[np.ndarray, "H W ..."]:
    """Sample at the grid: images (H W 3) bilinearly, labels (H W) at the nearest pixel; mirrored outside."""
    if values.ndim == 2:
        label: np.ndarray = ndimage.map_coordinates(values, grid, order=0, mode="reflect")
        return label
    channels = [
        ndimage.map_coordinates(channel, grid, order=1, mode="reflect") for channel in np.moveaxis(values, 2, 0)
    ]
    return np.stack(channels, axis=-1)


STILL: dict[str, Callable[[Pixels, int, Generator], Pixels]] = {
    function.__name__: function
    for function in (
        *(gaussian_noise, shot_noise, impulse_noise),
        *(defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness),
        *(contrast, pixelate, jpeg_compression),
    )
}
"""The corruptions that leave everything in its place."""


def _clip(pixels: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    clipped: np.ndarray = np.clip(pixels, 0.0, 1.0)
    return clipped


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    smooth: np.ndarray = ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    return smooth


def _convolve(
    pixels: Float[np.ndarray, "H W ..."], kernel: Float[np.ndarray, "h w"], border: str
) -> Float[np.ndarray, "H W ..."]:
    """Convolve every channel with a kernel of odd sides; `border` is the mode of `numpy.pad`."""
    high, wide = (side // 2 for side in kernel.shape)
    extra = [(0, 0)] * (pixels.ndim - 2)
    padded = np.pad(pixels, [(high, high), (wide, wide), *extra], mode=border)  # type: ignore[call-overload]
    shaped = kernel.reshape(*kernel.shape, *[1] * (pixels.ndim - 2))
    spread: np.ndarray = signal.fftconvolve(padded, shaped, mode="valid", axes=(0, 1))
    return spread


def _to_pil(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.round(pixels * 255.0).astype(np.uint8))
