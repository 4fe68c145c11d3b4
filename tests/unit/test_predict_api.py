"""Images of other ranges, types and sizes than the model reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.data.readers.raster import read_raster
from semask.inference.predictor import to_batch
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe
from tests.facts import facts


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return semask.build("scenes/micro-fpn")


@pytest.mark.parametrize("give", ["labels", "predict"])
@pytest.mark.parametrize(
    ("scale", "shift"), [(255.0, 0.0), (2.0, -1.0), (4.0, -2.0), (65535.0, 0.0), (1.0, -0.8), (1.0, 0.8)]
)
def test_other_ranges_are_refused_by_value(model: SegmentationModel, scale: float, shift: float, give: str) -> None:
    images = torch.linspace(0, 1, 3 * 40 * 50).view(1, 3, 40, 50) * scale + shift
    with pytest.raises(ValueError, match=facts("[0, 1]", f"{float(images.min()):g}", f"{float(images.max()):g}")):
        getattr(model, give)(images)


def test_images_divided_twice_are_told(model: SegmentationModel, caplog: pytest.LogCaptureFixture) -> None:
    model.labels(torch.rand(1, 3, 32, 32) / 255)
    assert "255" in caplog.text
    caplog.clear()
    model.labels(torch.rand(1, 3, 32, 32) * 1.4)
    assert "[0, 1]" in caplog.text
    caplog.clear()
    model.labels(torch.zeros(1, 3, 32, 32))  # an image may be black
    model.labels(torch.rand(1, 3, 32, 32) * 1.05)  # cubic resizing overshoots
    assert caplog.text == ""


def test_every_form_of_one_image_has_the_same_labels(model: SegmentationModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    wanted = model.labels(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [pixels, Image.fromarray(pixels), chw, pixels / 255, (pixels / 255).astype(np.float32), chw.double() / 255]
    forms += [pixels.astype(np.uint16) * 257, np.asfortranarray(pixels), pixels[:, ::-1][:, ::-1]]
    for form in forms:
        assert torch.equal(model.predict(form), wanted)
    assert torch.equal(model.labels(chw[None].double() / 255)[0], wanted)
    assert torch.equal(model.predict(torch.stack([chw, chw])), torch.stack([wanted, wanted]))


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 0, 5),
        torch.rand(0, 3, 4, 4),
        torch.rand(4, 8, 8),
        np.zeros((3, 8, 8), np.uint8),
        torch.zeros(3, 8, 8, dtype=torch.int32),
        torch.zeros(3, 8, 8, dtype=torch.complex64),
        torch.full((3, 8, 8), float("nan")),
        "x.png",
        None,
    ],
)
def test_what_is_no_image_is_refused(model: SegmentationModel, image: object) -> None:
    with pytest.raises(ValueError, match=r"image|x\.png"):
        model.predict(image)
    if isinstance(image, torch.Tensor) and not image.isnan().any():
        with pytest.raises(ValueError, match=r"image"):
            model.labels(image if image.ndim == 4 else image[None])


def test_pillow_images_are_read_as_their_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rgb, opaque = random.integers(0, 256, (9, 11, 3), dtype=np.uint8), np.full((9, 11), 255, np.uint8)
    cut = np.where(rgb[..., :1] > 99, 255, 0).astype(np.uint8)
    images = {
        "P": Image.fromarray(rgb).quantize(16),
        "1": Image.fromarray(rgb[..., 0] > 127),
        "L": Image.fromarray(rgb[..., 0]),
        "LA": Image.fromarray(np.dstack([rgb[..., 0], opaque])),
        "RGB": Image.fromarray(rgb),
        "RGBA": Image.fromarray(np.dstack([rgb, opaque])),
        "RGBA cut": Image.fromarray(np.dstack([rgb, cut])),
        "I;16": Image.fromarray(random.integers(0, 65536, (9, 11)).astype(np.uint16)),
    }
    refused = set()
    for name, image in images.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        for data in (DataRecipe(channels=c, value_range=r) for c in (1, 2, 3, 4) for r in (None, (20.0, 200.0))):
            try:
                expected = read_raster(str(path), data)
            except ValueError:
                refused.add((name, data.channels))
                with pytest.raises(
                    ValueError, match=facts(f"--data.channels {3 if name in 'P1' else len(image.getbands())}")
                ):
                    to_batch(image, data)
                continue
            expected = expected / 255 if expected.dtype == torch.uint8 else expected
            assert torch.equal(to_batch(image, data)[0][0], expected), (name, data)
    taken = {
        "P": [3],
        "1": [3],
        "L": [1, 3],
        "LA": [2, 3],
        "RGB": [3],
        "RGBA": [3, 4],
        "RGBA cut": [3, 4],
        "I;16": [1, 3],
    }
    assert refused == {(name, c) for name in images for c in (1, 2, 3, 4) if c not in taken[name]} | {("RGBA cut", 3)}


def test_a_range_scales_integers_and_no_floats() -> None:
    data = DataRecipe(value_range=(100.0, 300.0))
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.int64, ">u2"):
        stored = np.array([[[50, 100, 150]], [[200, 250, 255]]]).astype(kind)
        expected = torch.tensor([[0, 0, 0.25], [0.5, 0.75, 0.775]]).T[:, :, None]
        forms = [stored]
        if kind != ">u2":
            forms += [torch.from_numpy(stored).movedim(-1, 0), torch.from_numpy(stored).movedim(-1, 0)[None]]
        for form in forms:
            assert torch.allclose(to_batch(form, data)[0], expected)
    unit = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    for form in (unit, torch.from_numpy(unit).movedim(-1, 0)):
        assert torch.equal(to_batch(form, data)[0][0], torch.from_numpy(unit).movedim(-1, 0))
        for wrong, low, high in ((form * 0 + 150, 150, 150), (form * 0 - 1, -1, -1)):
            with pytest.raises(ValueError, match=facts("[0, 1]", low, high, "data.value_range 100 300")):
                to_batch(wrong, data)
    with pytest.raises(ValueError, match="bool"):
        to_batch(torch.zeros(3, 4, 4, dtype=torch.bool), data)
