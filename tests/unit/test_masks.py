"""One mask per class, in every usual layout, reads like one file of class numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask.data.checks.check import digest_split
from semask.data.checks.doctor import diagnose
from semask.data.dataset import classes_of, validation_set
from semask.data.masks import ClassMasks
from semask.data.pairs import find_pairs
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE
from tests.facts import facts, missing
from tests.unit.doctored import messages_of

NAMES = ("background", "road", "traffic_sign")
LAYOUTS = [
    ({"label_suffix": "_{class}.png"}, "labels/{split}/{stem}_{class}.png"),
    ({"label_suffix": "/{class}.png"}, "labels/{split}/{stem}/{class}.png"),
    ({"labels": "labels/{split}/{class}"}, "labels/{split}/{class}/{stem}.png"),
    ({"labels": "labels/{class}/{split}"}, "labels/{class}/{split}/{stem}.png"),
    ({"labels": "labels/{split}/mask_{class}", "label_suffix": "_L.png"}, "labels/{split}/mask_{class}/{stem}_L.png"),
]


def put(root: Path, layout: str, *, high: int = 255, seed: int = 0) -> dict[str, np.ndarray]:
    """Write two images a split with a mask of every class but the background; return the class numbers by stem."""
    random, found = np.random.default_rng(seed), {}
    for split in ("train", "val"):
        for stem in (f"{split}_a", f"{split}_a_b"):
            ids = random.integers(0, len(NAMES), (6, 8))
            image = root / f"images/{split}/{stem}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(image)
            for number, name in enumerate(NAMES[1:], 1):
                path = root / layout.format_map({"split": split, "stem": stem, "class": name})
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(((ids == number) * high).astype(np.uint8)).save(path)
            found[stem] = ids
    return found


@pytest.mark.parametrize("high", [1, 2, 100, 127, 255])
@pytest.mark.parametrize(("fields", "layout"), LAYOUTS)
def test_masks_equal_class_numbers(fields: dict[str, str], layout: str, high: int, tmp_path: Path) -> None:
    truth = put(tmp_path, layout, high=high)
    data = DataRecipe(root=str(tmp_path), **fields)
    assert classes_of(data).names == NAMES, "background and the names in the paths"
    samples = validation_set(data)
    assert {sample.name: sample.label.tolist() for sample in samples} == {
        stem: ids.tolist() for stem, ids in truth.items() if stem.startswith("val")
    }
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    assert diagnose(data).errors == ()


def test_later_classes_lie_above_and_what_no_mask_covers_is_background_or_ignored(tmp_path: Path) -> None:
    layout = LAYOUTS[0][1]
    truth = put(tmp_path, layout)
    data = DataRecipe(root=str(tmp_path), label_suffix="_{class}.png")
    ids = truth["val_a"]
    above = tmp_path / "labels/val/val_a_traffic_sign.png"
    Image.fromarray(np.full((6, 8), 200, np.uint8)).save(above)
    for names, expected in (
        (NAMES, np.full((6, 8), 2)),
        (("traffic_sign", "road"), np.where(ids == 1, 1, 0)),
        (("road", "Background"), np.where(ids == 1, 0, 1)),
        (("road",), np.where(ids == 1, 0, IGNORE)),
    ):
        (tmp_path / "classes.json").write_text(json.dumps({"classes": [*names]}))
        assert validation_set(data)[0].label.tolist() == expected.tolist()
    # a background of its own leaves the rest without a label
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    above.unlink()
    Image.fromarray(((ids == 2) * 255).astype(np.uint8)).save(tmp_path / "labels/val/val_a_background.png")
    assert validation_set(data)[0].label.tolist() == np.choose(ids, [IGNORE, 1, 0]).tolist()


def test_missing_masks_are_reported_and_edited_ones_read_again(tmp_path: Path) -> None:
    put(tmp_path, LAYOUTS[0][1])
    data = DataRecipe(root=str(tmp_path), label_suffix="_{class}.png")
    path = tmp_path / "labels/val/val_a_road.png"
    before = digest_split(data, "val"), validation_set(data)[0].label.tolist()
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(path)
    assert digest_split(data, "val") != before[0]
    assert validation_set(data)[0].label.tolist() != before[1]
    path.unlink()
    [issue] = messages_of(diagnose(data).warnings, "split")
    assert missing(issue, 1, 4, "'road'", "val_a_traffic_sign.png") == []
    assert [pair.label.present[0].name for pair in find_pairs(data, "val") if isinstance(pair.label, ClassMasks)] == [
        "val_a_traffic_sign.png",
        "val_a_b_road.png",
    ]


@pytest.mark.parametrize(
    ("layout", "flag"),
    [
        (LAYOUTS[0][1], "--data.label-suffix '_{class}.png'"),
        ("labels/{split}/{stem}-{class}.png", "--data.label-suffix '-{class}.png'"),
        (LAYOUTS[1][1], "--data.label-suffix '/{class}.png'"),
        (LAYOUTS[2][1], "--data.labels 'labels/{split}/{class}'"),
    ],
)
def test_the_flag_of_a_layout_is_named(layout: str, flag: str, tmp_path: Path) -> None:
    put(tmp_path, layout)
    with pytest.raises(ValueError, match=facts(2, flag)):
        find_pairs(DataRecipe(root=str(tmp_path)), "train")


def covered_by(path: Path, mask: np.ndarray, mode: str | None = None, **options: object) -> list[list[int]]:
    Image.fromarray(mask.astype(np.uint8), mode).save(path, **options)
    return (np.array(Image.open(ClassMasks(("road",), (path,)).open("rb"))) == 0).astype(int).tolist()


def test_what_a_mask_covers_or_why_it_is_refused(tmp_path: Path) -> None:
    edge = np.array([[0, 0, 1, 100, 127, 128, 200, 255]])
    covered = [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert covered_by(tmp_path / "soft.png", edge) == covered
    assert covered_by(tmp_path / "colour.png", np.dstack([edge, edge * 0, edge * 0])) == covered
    assert covered_by(tmp_path / "two.png", edge == 100) == [[0, 0, 0, 1, 0, 0, 0, 0]]
    assert covered_by(tmp_path / "full.png", np.full((1, 3), 2)) == [[1, 1, 1]]
    for values in ([0, 1, 2], [0, 60, 127], [1, 2], [3, 0, 1, 2, 4, 5, 9]):
        path = tmp_path / "few.png"
        with pytest.raises(ValueError, match=facts(path, *sorted(values)[:5], max(values), "0 and 255")):
            covered_by(path, np.array([values]))


def test_jpeg_masks_that_are_empty_or_too_dark(tmp_path: Path) -> None:
    path, columns = tmp_path / "a.jpg", np.kron([[0, 1, 0, 1]], np.ones((16, 16), int))
    # JPEG stores black as 1 at the first quality and as 3 at the second
    for quality in (70, 16):
        assert not np.any(covered_by(path, columns * 0, quality=quality))
        assert np.array(Image.open(path)).max() > 0
        assert covered_by(path, columns * 255, quality=quality) == columns.tolist()
    with pytest.raises(ValueError, match=facts(path, "0 and 255")):
        covered_by(path, columns * 100, quality=90)


def test_a_shape_in_transparency_alone_is_refused(tmp_path: Path) -> None:
    path, alpha = tmp_path / "a.png", np.array([[0, 255]])
    for level, name in ((0, "#000000"), (255, "#ffffff")):
        colour = np.full((1, 2), level)
        for bands in ([colour] * 3, [colour]):
            with pytest.raises(ValueError, match=facts(path, name, "0 … 255")):
                covered_by(path, np.dstack([*bands, alpha]))
    # empty everywhere, and a shape that colour and transparency share
    assert covered_by(path, np.zeros((1, 2, 4))) == [[0, 0]]
    assert covered_by(path, np.dstack([alpha] * 4)) == [[0, 1]]


def test_wrong_masks_are_refused(tmp_path: Path) -> None:
    put(tmp_path, LAYOUTS[0][1])
    data = DataRecipe(root=str(tmp_path), label_suffix="_{class}.png")
    path = tmp_path / "labels/val/val_a_traffic_sign.png"
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(path)
    with pytest.raises(ValueError, match=facts(path, "5×8", "6×8")):
        validation_set(data)[0]
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=facts(path)):
        validation_set(data)[0]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES], "labels": {"7": "road"}}))
    with pytest.raises(ValueError, match=facts('"{class}"', '"labels"')):
        find_pairs(data, "val")
