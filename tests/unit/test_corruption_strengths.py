"""Every strength of every corruption has the numbers of ImageNet-C's published script, which are written out here."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from semask.data import corruptions
from semask.data.corruptions import gaussian_noise, impulse_noise, shot_noise

PIXELS = np.random.default_rng(0).random((40, 48, 3))
STRENGTHS = range(1, 6)


class Watched:
    """Random numbers that are their lower bound or mean, or 0; what was asked for is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def uniform(self, low: float, high: float, size: tuple[int, ...] | None = None) -> object:
        self.asked.append((low, high))
        return 0.0 if size is None else np.zeros(size)

    def normal(self, mean: float, spread: float, size: tuple[int, ...]) -> np.ndarray:
        self.asked.append((mean, spread))
        return np.linspace(0, 1, int(np.prod(size))).reshape(size)

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        self.asked.append((low, high))
        return np.zeros(size, int)


@pytest.mark.parametrize(
    ("strength", "spread", "photons", "share"),
    zip(STRENGTHS, (0.08, 0.12, 0.18, 0.26, 0.38), (60, 25, 12, 5, 3), (0.03, 0.06, 0.09, 0.17, 0.27), strict=True),
)
def test_noise(strength: int, spread: float, photons: int, share: float) -> None:
    random, grey = np.random.default_rng(1), np.full((200, 200, 3), 0.5)
    noisy = gaussian_noise(grey, strength, random)
    assert abs(np.quantile(noisy, 0.8) - 0.5 - 0.8416 * spread) < 0.01 * spread + 0.001
    assert abs(np.diff(np.unique(shot_noise(grey, strength, random))).min() * photons - 1) < 1e-9
    assert abs((impulse_noise(grey, strength, random) != 0.5).mean() / share - 1) < 0.05


@pytest.mark.parametrize(
    ("strength", "radius", "softness"), zip(STRENGTHS, (3, 4, 6, 8, 10), (0.1, 0.5, 0.5, 0.5, 0.5), strict=True)
)
def test_defocus(strength: int, radius: int, softness: float) -> None:
    point = np.zeros((41, 41, 3))
    point[20, 20] = 1
    disk = (np.hypot(*np.mgrid[-20:21, -20:21]) <= radius).astype(float)
    steps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    bell = np.exp(-(steps**2) / (2 * softness**2))
    soft = ndimage.correlate(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2)
    assert np.allclose(corruptions.defocus_blur(point, strength, np.random.default_rng(0))[..., 0], soft)


@pytest.mark.parametrize(
    ("strength", "sigma", "reach", "times"),
    zip(STRENGTHS, (0.7, 0.9, 1.0, 1.1, 1.5), (1, 2, 2, 3, 4), (2, 1, 3, 2, 2), strict=True),
)
def test_glass(strength: int, sigma: float, reach: int, times: int) -> None:
    random = Watched()
    out = corruptions.glass_blur(PIXELS, strength, random)  # type: ignore[arg-type]
    assert random.asked == [(-reach, reach)] * times * (2 * reach + 1) ** 2
    twice = ndimage.gaussian_filter(PIXELS, (sigma, sigma, 0), mode="nearest")
    assert np.allclose(out, ndimage.gaussian_filter(twice, (sigma, sigma, 0), mode="nearest"))


@pytest.mark.parametrize(
    ("strength", "radius", "sigma"), zip(STRENGTHS, (10, 15, 15, 15, 20), (3, 5, 8, 12, 15), strict=True)
)
def test_motion(strength: int, radius: int, sigma: float) -> None:
    random, point = Watched(), np.zeros((9, 70, 3))
    point[4, 10] = 1
    out = corruptions.motion_blur(point, strength, random)  # type: ignore[arg-type]
    bell = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    assert random.asked == [(-45, 45)]
    assert np.allclose(out[4, 10 : 11 + 2 * radius, 0], bell / bell.sum())


@pytest.mark.parametrize(
    ("strength", "most", "step"), zip(STRENGTHS, (1.11, 1.16, 1.21, 1.26, 1.31), (1, 1, 2, 2, 3), strict=True)
)
def test_zoom(strength: int, most: float, step: int) -> None:
    factors = np.arange(1, most, step / 100)
    mean = np.mean([PIXELS, *(corruptions.zoom(PIXELS, factor) for factor in factors)], axis=0)
    assert np.allclose(corruptions.zoom_blur(PIXELS, strength, np.random.default_rng(0)), mean)


SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)


@pytest.mark.parametrize(("strength", "numbers"), zip(STRENGTHS, SNOW, strict=True))
def test_snow(strength: int, numbers: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def zoom(flakes: np.ndarray, size: float) -> np.ndarray:
        seen.append(size)
        return flakes

    def smear(flakes: np.ndarray, *, radius: int, sigma: float, angle: float) -> np.ndarray:
        seen.extend((round(float(flakes[flakes > 0].min()), 2), radius, sigma))
        return np.zeros_like(flakes)

    monkeypatch.setattr(corruptions, "zoom", zoom)
    monkeypatch.setattr(corruptions, "smear", smear)
    random = Watched()
    out = corruptions.snow(PIXELS, strength, random)  # type: ignore[arg-type]
    grey = np.array(Image.fromarray((PIXELS * 255).round().astype(np.uint8)).convert("L")) / 255
    kept = numbers[6]
    white = kept * PIXELS + (1 - kept) * np.maximum(PIXELS, 1.5 * grey[..., None] + 0.5)
    assert np.allclose(out, white.clip(0, 1), atol=0.005)
    assert [*random.asked[0], *seen] == pytest.approx(numbers[:6], abs=1e-9)
    assert random.asked[1] == (-135, -45)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_frost_and_fog(strength: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, iced = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[strength - 1]
    density, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[strength - 1]
    random = np.random.default_rng(0)
    monkeypatch.setattr(corruptions, "draw_frost", lambda size, _: np.full(size, 0.5))
    frosty = corruptions.frost(PIXELS, strength, random)
    assert np.allclose(frosty, (kept * PIXELS + iced * 0.5 * corruptions.ICE).clip(0, 1))
    decays = []
    monkeypatch.setattr(corruptions, "draw_clouds", lambda size, decay, _: decays.append(decay) or np.full(size, 0.5))
    most = PIXELS.max()
    foggy = corruptions.fog(PIXELS, strength, random)
    assert np.allclose(foggy, ((PIXELS + density * 0.5) * most / (most + density)).clip(0, 1))
    assert decays == [decay]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_elastic(strength: int, monkeypatch: pytest.MonkeyPatch) -> None:
    push, smooth, shear = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        strength - 1
    ]
    sigmas: list[float] = []
    monkeypatch.setattr(corruptions, "_blur_widely", lambda values, sigma: sigmas.append(sigma) or np.ones_like(values))
    random = Watched()
    grid = corruptions.elastic_grid((200, 300), strength, random)  # type: ignore[arg-type]
    assert np.allclose(grid - np.mgrid[:200, :300], push * 200)
    assert sigmas == pytest.approx([smooth * 200] * 2)
    assert random.asked[0] == pytest.approx((-shear * 200, shear * 200))


@pytest.mark.parametrize(
    ("strength", "factor", "quality"),
    zip(STRENGTHS, (0.6, 0.5, 0.4, 0.3, 0.25), (25, 18, 15, 10, 7), strict=True),
)
def test_pixelate_and_jpeg(strength: int, factor: float, quality: int) -> None:
    image, random = Image.fromarray((PIXELS * 255).round().astype(np.uint8)), np.random.default_rng(0)
    small = image.resize((int(48 * factor), int(40 * factor)), Image.Resampling.BOX)
    again = np.asarray(small.resize((48, 40), Image.Resampling.BOX)) / 255
    assert np.array_equal(corruptions.pixelate(PIXELS, strength, random), again)
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=quality)
        assert np.array_equal(
            corruptions.jpeg_compression(PIXELS, strength, random), np.asarray(Image.open(file)) / 255
        )
