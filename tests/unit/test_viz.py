from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.classes import Classes
from semask.evaluation.metrics import Confusion
from semask.inference.colours import (
    IGNORE_COLOUR,
    colourise,
    foreground,
    numbered_classes,
    overlay,
    write_image,
    write_label,
)
from semask.structures import IGNORE
from tests.facts import facts

CLASSES = Classes(("sky", "road"), ((10, 20, 30), (200, 100, 0)), {0: 0, 1: 1})
LABELS = torch.tensor([[0, 1, IGNORE], [1, 1, 0]], dtype=torch.uint8)


def test_every_pixel_gets_its_class_colour() -> None:
    colours = colourise(LABELS, CLASSES)
    expected = {0: (10, 20, 30), 1: (200, 100, 0), IGNORE: IGNORE_COLOUR}
    for y in range(2):
        for x in range(3):
            assert tuple(colours[:, y, x].tolist()) == expected[int(LABELS[y, x])]
    assert torch.equal(colourise(LABELS.long(), CLASSES), colours)
    assert tuple(colourise(torch.tensor([[-1]]), CLASSES).flatten().tolist()) == IGNORE_COLOUR


def test_overlay_mixes_and_leaves_unlabelled_pixels_alone() -> None:
    image = torch.full((3, 2, 3), 100 / 255)
    mixed = overlay(image, LABELS, CLASSES, alpha=0.25)
    assert mixed[:, 0, 1].tolist() == [125, 100, 75]
    assert mixed[:, 0, 2].tolist() == [100, 100, 100]
    assert torch.equal(overlay(image, LABELS, CLASSES, alpha=0), torch.full((3, 2, 3), 100, dtype=torch.uint8))
    opaque = overlay(image, LABELS, CLASSES, alpha=1)
    assert torch.equal(opaque[:, LABELS != IGNORE], colourise(LABELS, CLASSES)[:, LABELS != IGNORE])


def test_overlay_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=facts("alpha", "[0, 1]", 1.5)):
        overlay(torch.zeros(3, 2, 3), LABELS, CLASSES, alpha=1.5)
    with pytest.raises(ValueError, match=facts((3, 3, 2), (2, 3))):
        overlay(torch.zeros(3, 3, 2), LABELS, CLASSES)


def test_label_png_holds_ids_and_shows_colours(tmp_path: Path) -> None:
    write_label(tmp_path / "deep" / "a.png", LABELS, CLASSES)
    with Image.open(tmp_path / "deep" / "a.png") as stored:
        assert stored.mode == "P"
        assert np.array_equal(np.array(stored), LABELS.numpy())
        assert np.array_equal(np.array(stored.convert("RGB")), colourise(LABELS, CLASSES).permute(1, 2, 0).numpy())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"], "no temporary file is left"


def test_label_png_holds_255_classes(tmp_path: Path) -> None:
    labels = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    write_label(tmp_path / "a.png", labels, numbered_classes(255))
    with Image.open(tmp_path / "a.png") as stored:
        assert np.array_equal(np.array(stored), labels.numpy())
        assert stored.convert("RGB").getpixel((15, 15)) == IGNORE_COLOUR


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_image_comes_back(tmp_path: Path, suffix: str) -> None:
    image = torch.arange(3 * 16 * 16).reshape(3, 16, 16).div(3).to(torch.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        back = np.array(stored).astype(int)
    tolerance = 0 if suffix == ".png" else 40
    assert np.abs(back - image.permute(1, 2, 0).numpy()).max() <= tolerance


def test_numbered_classes_have_distinct_colours() -> None:
    classes = numbered_classes(150)
    assert classes.names[149] == "class 149"
    assert len(set(classes.colours)) == 150
    assert IGNORE_COLOUR not in classes.colours


def test_confusion_of_what_was_written(tmp_path: Path) -> None:
    """A label file of ours, read as plain ids, scores 100 % against itself."""
    write_label(tmp_path / "a.png", LABELS, CLASSES)
    confusion = Confusion(2)
    confusion.update(torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))), LABELS)
    assert confusion.scores().miou == 1.0


def test_overlays_of_bytes_and_strip_by_strip_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(0, 256, (3, 13, 9), dtype=torch.uint8)
    labels = torch.randint(0, 4, (13, 9), dtype=torch.uint8)
    whole = overlay(image / 255, labels, CLASSES, alpha=0.3)
    assert torch.equal(overlay(image, labels, CLASSES, alpha=0.3), whole)
    monkeypatch.setattr("semask.inference.colours.PIXELS", 20)
    assert torch.equal(overlay(image, labels, CLASSES, alpha=0.3), whole)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_outlines_against_a_loop(width: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel is painted where one of another class lies within the width along its row or column."""
    monkeypatch.setattr("semask.inference.colours.PIXELS", 14 * rows)
    labels = torch.randint(0, 3, (4, 5)).repeat_interleave(3, 0).repeat_interleave(3, 1)[:, :14]
    labels[labels == 2] = IGNORE
    image = torch.randint(0, 256, (3, *labels.shape), dtype=torch.uint8)
    for shown in (None, (1,)):
        found = overlay(image, labels, CLASSES, alpha=0, outline=width, shown=shown)
        for y, x in np.ndindex(*labels.shape):
            row = labels[y, max(0, x - width) : x + width + 1]
            column = labels[max(0, y - width) : y + width + 1, x]
            own = int(labels[y, x])
            painted = own in (shown or (0, 1)) and any(int(other) != own for other in (*row, *column))
            assert tuple(found[:, y, x].tolist()) == (CLASSES.colours[own] if painted else tuple(image[:, y, x]))


def test_overlay_of_chosen_classes_leaves_the_others_alone() -> None:
    image = torch.randint(0, 256, (3, 2, 3), dtype=torch.uint8)
    mixed = overlay(image, LABELS, CLASSES, alpha=1, shown=(1,))
    assert torch.equal(mixed, torch.where(LABELS == 1, colourise(LABELS, CLASSES), image))
    assert torch.equal(overlay(image, LABELS, CLASSES, shown=()), image)


def test_a_legend_shows_the_classes_that_are_there() -> None:
    image, labels = torch.full((3, 240, 320), 90, dtype=torch.uint8), torch.zeros(240, 320, dtype=torch.uint8)
    classes = numbered_classes(5)
    labels[:50] = 3

    def colours(**options: object) -> set[tuple[int, ...]]:
        return {*map(tuple, overlay(image, labels, classes, alpha=0, **options).flatten(1).T.tolist())}

    assert colours() == {(90, 90, 90)}
    assert {*classes.colours} & colours(legend=True) == {classes.colours[0], classes.colours[3]}
    assert {*classes.colours} & colours(legend=True, shown=(3, 4)) == {classes.colours[3]}
    # the upper right corner stays free, and a small image has no room
    assert torch.equal(overlay(image, labels, classes, alpha=0, legend=True)[:, :100], image[:, :100])
    small = image[:, :20, :20], labels[:20, :20]
    assert torch.equal(overlay(*small, classes, legend=True), overlay(*small, classes))


def test_the_background_is_left_clear_where_there_are_other_classes() -> None:
    def shown(*names: str) -> tuple[int, ...]:
        return foreground(Classes.from_dict({"classes": [*names]}))

    assert shown("Background ", "crop") == (1,)
    assert shown("crop", "bg", "weed") == (0, 2)
    assert shown("sky", "road") == (0, 1)
    assert shown("background") == (0,)
