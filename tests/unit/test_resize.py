from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from semask.data.augment.transforms import TrainTransform
from semask.data.dataset import training_set
from semask.data.readers.image import read_image
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.ops.crop_resize import ResizedLabel, resize_window
from semask.ops.reference import reference_mode
from semask.recipes.recipe import DataRecipe
from tests.facts import facts


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_part_is_that_of_the_whole_to_the_bit(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    size = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    ends = [sorted(data.draw(st.tuples(st.integers(0, side - 1), st.integers(1, side + 5)))) for side in size]
    rows, columns = (slice(first, max(first + 1, last)) for first, last in ends)
    pixels = torch.from_numpy(np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), np.uint8))
    image = pixels.permute(2, 0, 1)
    for antialias in (False, True):
        for given_image in (image, image.contiguous(), image.float() / 255):
            found = resize_window(given_image, size, (rows, columns), antialias=antialias)
            with reference_mode():
                assert torch.equal(found, resize_window(given_image, size, (rows, columns), antialias=antialias))
        if size != (1, 1):
            whole = tv.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=antialias)
            assert torch.equal(
                resize_window(image, size, (rows, columns), antialias=antialias), whole[:, rows, columns]
            )


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 500), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_labels_are_torchs_nearest_pixels(height: int, width: int, tall: int, wide: int) -> None:
    label = torch.randint(0, 256, (height, width), dtype=torch.uint8)
    whole = tv.resize(label[None], [tall, wide], interpolation=InterpolationMode.NEAREST)[0]
    resized = ResizedLabel(label, (tall, wide))
    assert resized.shape == (tall, wide)
    window = slice(tall // 3, tall // 3 + 50), slice(wide // 2, wide // 2 + 20)
    assert torch.equal(resized[window], whole[window])
    assert torch.equal(resized[:, :], whole)


def test_no_more_than_the_window_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    resize = tv.resize

    def watched(image: torch.Tensor, size: list[int], **options: object) -> torch.Tensor:
        made.append(size[0] * size[1])
        return resize(image, size, **options)

    monkeypatch.setattr(tv, "resize", watched)
    image = torch.zeros(400, 600, 3, dtype=torch.uint8).permute(2, 0, 1)
    resize_window(image, (800, 1200), (slice(100, 164), slice(200, 264)), antialias=False)
    assert sum(made) < 0.12 * 800 * 1200


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(2):
        image, label = draw_scene(number, (203, 301))
        Image.fromarray(image).save(tmp_path / f"images/train/{number}.jpg", quality=95)
        Image.fromarray(label).save(tmp_path / f"labels/train/{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps(SCENE_CLASSES.to_dict()), encoding="utf-8")
    return tmp_path


def recipe(root: Path, ratio: float, **options: object) -> DataRecipe:
    fields = {"root": str(root), "scale_choices": (ratio,), "crop": (48, 48), "photometric": False, **options}
    return DataRecipe(**fields)


@pytest.mark.parametrize(("ratio", "factor"), [(0.51, 1), (0.5, 2), (0.4, 2), (0.25, 4), (0.2, 4), (0.12, 8)])
def test_pictures_are_decoded_no_larger_than_the_draw_needs(pictures: Path, ratio: float, factor: int) -> None:
    data = recipe(pictures, ratio)
    exact, reduced = (training_set(dataclasses.replace(data, jpeg_draft=on), seed=3) for on in (False, True))
    size = TrainTransform(data).draw_size(203, 301, np.random.default_rng(0))
    seen = read_image(str(pictures / "images/train/0.jpg"), at_least=size)
    assert seen.shape[1:] == (-(-203 // factor), -(-301 // factor))
    for draw in range(4):
        ours, theirs = reduced[draw], exact[draw]
        # The same crop of the same picture, since chance is spent alike.
        assert torch.equal(ours.label, theirs.label)
        assert torch.equal(ours.image, theirs.image) == (factor == 1)
        assert (ours.image - theirs.image).abs().mean() < 0.06


def test_a_picture_on_its_side_is_reduced_along_its_own_sides(tmp_path: Path) -> None:
    pixels = Image.fromarray(draw_scene(1, (64, 200))[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels.save(tmp_path / "a.jpg", exif=turned)
    assert read_image(str(tmp_path / "a.jpg"), at_least=(100, 32)).shape == (3, 100, 32)
    assert read_image(str(tmp_path / "a.jpg"), at_least=(101, 32)).shape == (3, 200, 64)


def test_what_is_no_jpeg_is_read_whole(tmp_path: Path) -> None:
    Image.fromarray(draw_scene(1, (64, 80))[0]).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"), at_least=(8, 8)).shape == (3, 64, 80)


@pytest.mark.parametrize("side", [(100, 100), (609, 903)])
def test_sizes_that_differ_are_told_of_reduced_pictures_too(pictures: Path, side: tuple[int, int]) -> None:
    for number in range(2):
        Image.fromarray(np.zeros(side, np.uint8)).save(pictures / f"labels/train/{number}.png")
    with pytest.raises(ValueError, match=facts("labels/train/0.png", f"{side[0]}×{side[1]}")):
        training_set(recipe(pictures, 0.25, jpeg_draft=True), seed=0)[0]


@pytest.mark.parametrize("options", [{"kind": "scenes"}, {"channels": 1}, {"value_range": (0.0, 100.0)}])
def test_what_cannot_be_decoded_smaller_is_refused(options: dict[str, object]) -> None:
    data = DataRecipe(jpeg_draft=True, **options)
    with pytest.raises(ValueError, match=facts("data.jpeg_draft", "JPEG", "RGB", "--data.jpeg-draft false")):
        TrainTransform(data, mean=(0.5,) * data.channels)
