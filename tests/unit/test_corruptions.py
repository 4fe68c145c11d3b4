"""The corruptions of ImageNet-C, each against what its definition says of it, on images of any size."""

from __future__ import annotations

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semask.data.corruptions import (
    CORRUPTIONS,
    ELASTIC,
    KINDS,
    STILL,
    STRENGTHS,
    brightness,
    contrast,
    corrupt,
    defocus_blur,
    draw_clouds,
    draw_frost,
    elastic_grid,
    fog,
    frost,
    gaussian_noise,
    glass_blur,
    impulse_noise,
    jpeg_compression,
    pixelate,
    shot_noise,
    smear,
    snow,
    warp,
    zoom,
    zoom_blur,
)
from tests.facts import facts


def scene(height: int = 48, width: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a image with edges, slopes and texture, and its label."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    label = ((rows // 12 + columns // 16) % 3).astype(np.uint8)
    colours = np.array([[0.2, 0.4, 0.7], [0.6, 0.55, 0.3], [0.15, 0.3, 0.1]])
    pixels = colours[label] * (0.7 + 0.3 * columns[..., None] / width) + random.normal(0, 0.02, (height, width, 3))
    eight = np.round(np.clip(pixels, 0, 1) * 255).astype(np.float32) / 255
    return torch.from_numpy(eight).permute(2, 0, 1).contiguous(), torch.from_numpy(label)


def pixels_of(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def change(image: torch.Tensor, other: torch.Tensor) -> float:
    return float((image - other).square().mean())


# --- all of them ---------------------------------------------------------------------------------------------------


def test_there_are_fifteen_in_four_kinds() -> None:
    assert len(CORRUPTIONS) == len({*CORRUPTIONS}) == 15
    assert {*STILL} | {ELASTIC} == {*CORRUPTIONS}
    assert [len(names) for names in KINDS.values()] == [3, 4, 4, 4]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_image_of_eight_bits_and_its_own_chance(name: str) -> None:
    image, label = scene()
    before = image.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for strength in STRENGTHS:
        out, ids = corrupt(image, label, name=name, strength=strength, key="0 a")
        again, same = corrupt(image, label, name=name, strength=strength, key="0 a")
        assert torch.equal(out, again)
        assert torch.equal(ids, same)
        assert out.dtype == torch.float32
        assert out.shape == image.shape
        assert ids.dtype == torch.uint8
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        torch.testing.assert_close(out * 255, (out * 255).round(), atol=1e-4, rtol=0)
        assert change(out, image) > 1e-5
    assert torch.equal(image, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_strengths_have_noise_of_their_own() -> None:
    """With one noise for all, the second would be the first, louder: of the same sign in every pixel."""
    grey, label = torch.full((3, 40, 40), 0.5), torch.zeros(40, 40, dtype=torch.uint8)
    first, second = (
        corrupt(grey, label, name="gaussian_noise", strength=strength, key="a")[0] - 0.5 for strength in (1, 2)
    )
    same = ((first > 0) == (second > 0)).float().mean()
    assert 0.45 < float(same) < 0.55


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "motion_blur", "snow", "frost", "fog", ELASTIC])
def test_chance_depends_on_the_key(name: str) -> None:
    image, label = scene()
    first, second = (corrupt(image, label, name=name, strength=3, key=key)[0] for key in ("0 a", "0 b"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in {ELASTIC, "snow", "frost", "fog"}])
def test_strengths_rise(name: str) -> None:
    clouds = [draw_clouds((96, 128), 1.4, np.random.default_rng(seed)) for seed in range(3)]
    image, label = torch.from_numpy(np.stack(clouds)).float(), scene(96, 128)[1]
    changes = [
        np.mean([change(corrupt(image, label, name=name, strength=s, key=str(k))[0], image) for k in range(3)])
        for s in STRENGTHS
    ]
    assert all(low < high * 1.1 for low, high in pairwise(changes)), changes
    assert changes[-1] > 1.3 * changes[0]


@given(st.sampled_from(CORRUPTIONS), st.sampled_from(STRENGTHS), st.integers(1, 23), st.integers(1, 23))
@settings(max_examples=120, deadline=None)
def test_images_may_be_of_any_size(name: str, strength: int, height: int, width: int) -> None:
    image, label = scene(height, width)
    out, ids = corrupt(image, label, name=name, strength=strength, key="k")
    assert out.shape == image.shape
    assert ids.shape == label.shape
    assert bool(torch.isfinite(out).all())
    assert {*ids.flatten().tolist()} <= {*label.flatten().tolist()}


@pytest.mark.parametrize(("name", "strength"), [("mist", 1), ("fog", 0), ("fog", 6)])
def test_others_are_refused(name: str, strength: int) -> None:
    with pytest.raises(ValueError, match=facts(repr(name), strength, "gaussian_noise", "1 … 5")):
        corrupt(*scene(), name=name, strength=strength, key="")


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "spread"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_the_papers_spread(strength: int, spread: float) -> None:
    grey = np.full((200, 200, 3), 0.5)
    noise = gaussian_noise(grey, strength, np.random.default_rng(0)) - 0.5
    inside = np.abs(noise) < 0.499
    assert inside.mean() > 0.99
    assert abs(noise.std() / spread - 1) < 0.02
    assert abs(noise.mean()) < 0.002


@pytest.mark.parametrize(("strength", "photons"), [(1, 60), (5, 3)])
def test_shot_noise_counts_photons(strength: int, photons: int) -> None:
    grey = np.full((200, 200, 3), 0.3)
    seen = shot_noise(grey, strength, np.random.default_rng(0)) * photons
    assert np.allclose(seen, np.round(seen))
    assert abs(seen.mean() / (0.3 * photons) - 1) < 0.03
    assert photons < 10 or abs(seen.var() / seen.mean() - 1) < 0.03, "Poisson, where nothing is cut off"


@pytest.mark.parametrize(("strength", "share"), [(1, 0.03), (5, 0.27)])
def test_impulses_are_half_black_half_white(strength: int, share: float) -> None:
    grey = np.full((200, 200, 3), 0.5)
    out = impulse_noise(grey, strength, np.random.default_rng(0))
    assert {*np.unique(out)} == {0.0, 0.5, 1.0}
    assert abs((out != 0.5).mean() / share - 1) < 0.05
    assert abs((out == 1).sum() / (out == 0).sum() - 1) < 0.1


# --- blur ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "radius"), [(1, 3), (3, 6), (5, 10)])
def test_defocus_makes_a_disk_of_a_point(strength: int, radius: int) -> None:
    point = np.zeros((61, 61, 3))
    point[30, 30] = 1.0
    disk = defocus_blur(point, strength, np.random.default_rng(0))
    assert abs(disk[..., 0].sum() - 1) < 1e-9
    distance = np.hypot(*np.mgrid[-30:31, -30:31])
    assert np.allclose(disk[..., 0][distance <= radius - 2.9], 1 / (distance <= radius).sum(), rtol=1e-3)
    assert disk[distance > radius + 3].max() < 1e-12


@pytest.mark.parametrize("blur", [defocus_blur, zoom_blur, glass_blur])
def test_blur_keeps_what_is_of_one_colour(blur: object) -> None:
    for strength in STRENGTHS:
        out = blur(np.full((40, 33, 3), 0.37), strength, np.random.default_rng(0))  # type: ignore[operator]
        assert np.allclose(out, 0.37)


def test_glass_swaps_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semask.data.corruptions._blur", lambda pixels, sigma: pixels.copy())
    numbers = np.arange(40 * 50 * 3).reshape(40, 50, 3) / 6000
    out = glass_blur(numbers, 5, np.random.default_rng(0))
    assert (np.sort(out[..., 0].ravel()) == np.sort(numbers[..., 0].ravel())).all(), "a permutation"
    places = np.round(out[..., 0] * 2000).astype(int)
    rows, columns = places // 50, places % 50
    away = np.maximum(np.abs(rows - np.mgrid[:40, :50][0]), np.abs(columns - np.mgrid[:40, :50][1]))
    assert (away > 0).mean() > 0.6
    assert np.median(away) <= 6, "pixels stay in the neighbourhood"
    assert (out[..., 1] - out[..., 0] > 0).all(), "colours stay together"


def test_a_smear_is_half_a_bell_along_a_line() -> None:
    point = np.zeros((61, 61))
    point[30, 20] = 1.0
    out = smear(point, radius=5, sigma=3.0, angle=0.0)
    weights = np.exp(-(np.arange(11) ** 2) / 18)
    assert np.allclose(out[30, 20:31], weights / weights.sum())
    assert abs(out.sum() - 1) < 1e-9
    down = smear(point, radius=5, sigma=3.0, angle=90.0)
    assert np.allclose(down[30:41, 20], weights / weights.sum())
    assert np.allclose(smear(np.full((9, 9), 0.4), radius=10, sigma=3.0, angle=33.0), 0.4), "also near borders"


def test_zooming_takes_the_middle() -> None:
    rows, columns = np.mgrid[:40, :60].astype(float)
    out = zoom(np.stack((rows, columns), axis=-1), 2.0)
    assert np.allclose(out[0, 0], [10, 15])
    assert np.allclose(out[-1, -1], [29, 44])
    assert np.allclose(zoom(rows, 1.0), rows)


# --- weather -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", STRENGTHS)
def test_brightness_raises_the_value_of_hsv(strength: int) -> None:
    random = np.random.default_rng(0)
    pixels = random.random((5, 6, 3))
    pixels[0, 0] = 0.0
    out = brightness(pixels, strength, random)
    for before, after in zip(pixels.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert np.allclose(after, colorsys.hsv_to_rgb(hue, saturation, min(value + strength / 10, 1.0)))


def test_clouds_fill_the_range_and_are_rougher_where_they_decay_less() -> None:
    smooth, rough = (draw_clouds((100, 130), decay, np.random.default_rng(0)) for decay in (2.0, 1.4))
    for field in (smooth, rough):
        assert field.shape == (100, 130)
        assert 0 <= field.min() < 0.3
        assert 0.7 < field.max() <= 1
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_fog_lightens_the_dark_and_dims_what_is_bright() -> None:
    pixels = pixels_of(scene(64, 80)[0])
    out = fog(pixels, 3, np.random.default_rng(0))
    assert out[pixels < 0.1].mean() > pixels[pixels < 0.1].mean()
    assert out.std() < pixels.std() + 0.2
    assert out.max() <= pixels.max() + 1e-9


def test_snow_and_frost_whiten() -> None:
    pixels = pixels_of(scene(96, 128)[0])
    for strength in STRENGTHS:
        snowy, frosty = (fall(pixels, strength, np.random.default_rng(0)) for fall in (snow, frost))
        for out in (snowy, frosty):
            assert out.mean() > pixels.mean() + 0.05
        assert frosty[..., 2].mean() - pixels[..., 2].mean() > frosty[..., 0].mean() - pixels[..., 0].mean(), "bluish"
    ice = draw_frost((96, 128), np.random.default_rng(0))
    assert 0 <= ice.min() < ice.max() <= 1
    assert ice.std() > 0.1


# --- digital -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "factor"), enumerate((0.4, 0.3, 0.2, 0.1, 0.05), start=1))
def test_contrast_scales_around_the_mean(strength: int, factor: float) -> None:
    pixels = pixels_of(scene()[0])
    out = contrast(pixels, strength, np.random.default_rng(0))
    assert np.allclose(out.mean((0, 1)), pixels.mean((0, 1)))
    assert np.allclose(out.std((0, 1)), factor * pixels.std((0, 1)))


def test_pixelate_is_made_of_boxes() -> None:
    pixels = pixels_of(scene(40, 64)[0])
    out = pixelate(pixels, 5, np.random.default_rng(0))
    blocks = pixels.reshape(10, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(out - blocks.repeat(4, 0).repeat(4, 1)).max() <= 1 / 255


@pytest.mark.parametrize(("strength", "quality"), [(1, 25), (5, 7)])
def test_jpeg_is_that_of_pillow(strength: int, quality: int) -> None:
    pixels = pixels_of(scene()[0])
    with io.BytesIO() as file:
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)) / 255
    assert (jpeg_compression(pixels, strength, np.random.default_rng(0)) == expected).all()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_elastic_moves_the_label_with_the_image(strength: int) -> None:
    label = scene(90, 120)[1]
    painted = (label[None].float() / 2).expand(3, -1, -1).contiguous()
    out, ids = corrupt(painted, label, name=ELASTIC, strength=strength, key="x")
    # Between two classes colours mix; elsewhere the colour gives the class.
    clear = ((out[0] * 2 - (out[0] * 2).round()).abs() < 0.01).numpy()
    assert clear.mean() > 0.7
    assert ((out[0] * 2).round().numpy() == ids.numpy())[clear].mean() > 0.999
    places = elastic_grid((90, 120), strength, np.random.default_rng(0))
    assert 0.3 < np.abs(places - np.mgrid[:90, :120]).max() < 90


def test_moving_nowhere_changes_nothing() -> None:
    image, label = scene()
    here = np.mgrid[:48, :64].astype(float)
    assert np.allclose(warp(pixels_of(image), grid=here), pixels_of(image))
    assert (warp(label.numpy(), grid=here) == label.numpy()).all()
