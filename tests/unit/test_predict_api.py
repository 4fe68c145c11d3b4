"""Images of other ranges, types and sizes than the model reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.models.model import SegmentationModel
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
