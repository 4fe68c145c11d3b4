"""Weather between the camera and the scene."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from semask.data.corruptions.blur import smear, zoomed

Pixels = Float[np.ndarray, "H W 3"]
GREY = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in brightness."""
ICE = np.array([0.83, 0.93, 1.0])
"""The colour of frost at its brightest."""


def snow(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Whiten the picture and let flakes fall across it, and the same turned upside down."""
    mean, spread, size, least, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[strength - 1]
    flakes = zoomed(random.normal(mean, spread, pixels.shape[:2]), size)
    flakes = np.clip(np.where(flakes < least, 0.0, flakes), 0.0, 1.0)
    flakes = smear(flakes, radius=radius, sigma=sigma, angle=random.uniform(-135.0, -45.0))[..., None]
    light = (pixels @ GREY)[..., None]
    white = kept * pixels + (1.0 - kept) * np.maximum(pixels, 1.5 * light + 0.5)
    corrupted: np.ndarray = np.clip(white + flakes + flakes[::-1, ::-1], 0.0, 1.0)
    return corrupted


def frost(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Lay crystals of ice over the picture."""
    kept, iced = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[strength - 1]
    corrupted: np.ndarray = np.clip(
        kept * pixels + iced * draw_frost(pixels.shape[:2], random)[..., None] * ICE, 0.0, 1.0
    )
    return corrupted


def fog(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Let clouds of light drift over the picture."""
    density, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[strength - 1]
    brightest = pixels.max()
    clouded = pixels + density * draw_clouds(pixels.shape[:2], decay, random)[..., None]
    corrupted: np.ndarray = np.clip(clouded * brightest / (brightest + density), 0.0, 1.0)
    return corrupted


def brightness(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Raise the value of every colour, hue and saturation kept."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[strength - 1], 1.0)
    # Black has neither hue nor saturation and becomes grey.
    corrupted: np.ndarray = np.where(value > 0, pixels / np.where(value > 0, value, 1.0), 1.0) * raised
    return corrupted


def draw_clouds(size: tuple[int, int], decay: float, random: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """Return a cloudy field from 0 to 1: middles of squares and of edges, each moved by `decay`² less than the last.

    Source: Fournier, Fussell and Carpenter, "Computer Rendering of Stochastic Models" (1982), on a field without edges.
    """
    side = 1 << max(1, (max(size) - 1).bit_length())
    field = np.zeros((side, side))
    step, reach = side, 1.0
    while step > 1:
        half = step // 2
        corners = field[::step, ::step]
        square = corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))
        middles = square / 4 + random.uniform(-reach, reach, corners.shape)
        across = corners + np.roll(corners, -1, 1) + middles + np.roll(middles, 1, 0)
        down = corners + np.roll(corners, -1, 0) + middles + np.roll(middles, 1, 1)
        field[half::step, half::step] = middles
        field[::step, half::step] = across / 4 + random.uniform(-reach, reach, corners.shape)
        field[half::step, ::step] = down / 4 + random.uniform(-reach, reach, corners.shape)
        step, reach = half, reach / decay**2
    field -= field.min()
    return field[: size[0], : size[1]] / max(float(field.max()), 1e-12)


def draw_frost(size: tuple[int, int], random: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """Return how bright ice is, 0 … 1: needles in bundles of a few directions, thick in some places, thin in others."""
    thickness = draw_clouds(size, 1.6, random)
    needles = np.zeros(size)
    for scale in (1.0, 2.0, 4.0):
        for _ in range(4):
            seeds = zoomed((random.random(size) < 0.012).astype(float), scale)
            streaks = smear(seeds, radius=int(10 * scale), sigma=6.0 * scale, angle=random.uniform(0.0, 360.0))
            needles = np.maximum(needles, streaks / max(float(streaks.max()), 1e-12))
    veil = ndimage.gaussian_filter(needles, 2.0)
    ice = 0.25 + 0.55 * thickness + 0.9 * thickness * needles + 0.4 * veil
    bright: np.ndarray = np.clip(ice - 0.15, 0.0, 1.0)
    return bright
