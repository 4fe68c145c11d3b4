"""Noise of sensors and of their failures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Pixels = Float[np.ndarray, "H W 3"]


def gaussian_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Add noise of one variance, as in little light."""
    spread = (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    return np.clip(pixels + random.normal(0.0, spread, pixels.shape), 0.0, 1.0)


def shot_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Count photons, of which white sends so many."""
    photons = (60, 25, 12, 5, 3)[strength - 1]
    return np.clip(random.poisson(pixels * photons) / photons, 0.0, 1.0)


def impulse_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    """Turn this share of the samples black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[strength - 1]
    hit, white = random.random(pixels.shape) < share, random.random(pixels.shape) < 0.5
    return np.where(hit, white.astype(pixels.dtype), pixels)
