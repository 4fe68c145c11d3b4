"""Every kind of bad input is put into a good folder, and must be reported by file with what to do."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask.data.checks.check import CheckReport, check_pairs, inspect_pairs
from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.recipes.recipe import DataRecipe
from tests.facts import facts, missing

NAMES = ("p0", "p1", "p2")


@pytest.fixture
def data(tmp_path: Path) -> DataRecipe:
    """Three good training pairs and one for validation, three classes."""
    for split, names in (("train", NAMES), ("val", ("v0",))):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for name in names:
            put_image(tmp_path / f"images/{split}/{name}.png")
            put_label(tmp_path / f"labels/{split}/{name}.png", np.tile(np.uint8([0, 1, 2, 255]), (12, 4)))
    put_classes(tmp_path, ["a", "b", "c"])
    return DataRecipe(root=str(tmp_path))


def put_image(path: Path, size: tuple[int, int] = (12, 16), **options: object) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, **options)


def put_label(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids).save(path)


def put_classes(root: Path, names: list[str], **labels: object) -> None:
    (root / "classes.json").write_text(json.dumps({"classes": names, **({"labels": labels} if labels else {})}))


def refused(data: DataRecipe) -> str:
    with pytest.raises(ValueError, match=facts(data.root)) as caught:
        check_pairs(data, progress=False)
    return str(caught.value)


def test_good_data_passes_and_is_counted(data: DataRecipe) -> None:
    report = check_pairs(data, progress=False)
    assert report.pairs == 4
    assert report.errors == report.warnings == ()
    assert report.pixels.tolist() == [4 * 48] * 3
    assert report.ignored == 4 * 48
    assert check_pairs(data, splits=("val",), progress=False).pairs == 1


def test_one_and_many_threads_find_the_same(data: DataRecipe) -> None:
    pairs, classes = find_pairs(data, "train"), Classes.from_dict({"classes": ["a", "b"]})
    one, many = (inspect_pairs(pairs, data, classes, workers=workers) for workers in (1, 8))
    assert [str(issue) for issue in one.errors] == [str(issue) for issue in many.errors]
    assert [issue.kind for issue in one.errors] == ["zero", "values", "values", "values"]


def test_the_progress_bar_changes_nothing(data: DataRecipe) -> None:
    assert check_pairs(data, progress=True).pairs == 4


# --- the list ----------------------------------------------------------------------------------------------------


def test_images_of_unsupported_depth(data: DataRecipe) -> None:
    root = Path(data.root or "")
    (root / "images/train/p1.png").unlink()
    Image.fromarray(np.zeros((12, 16), np.float32)).save(root / "images/train/p1.tif")
    message = refused(data)
    assert missing(message, "images/train/p1.tif", "float32", "--data.value-range", 1, 4) == []


def test_label_values_outside_the_map(data: DataRecipe) -> None:
    ids = np.zeros((12, 16), np.uint8)
    ids[0, :5], ids[1, :2] = 7, 90
    put_label(Path(data.root or "") / "labels/train/p1.png", ids)
    message = refused(data)
    assert missing(message, "labels/train/p1.png", 7, 5, 90, 2, '"labels"') == []
    assert "p0" not in message


def test_many_values_outside_the_map_are_summed_up(data: DataRecipe) -> None:
    put_label(Path(data.root or "") / "labels/train/p1.png", np.arange(100, 292, dtype=np.uint16).reshape(12, 16))
    message = refused(data)
    assert missing(message, 100, 101, 102, 103, 104, 105, 191) == [105], "191 are the 192 less the 255"


def test_palette_label_outside_the_map(data: DataRecipe) -> None:
    image = Image.fromarray(np.full((12, 16), 9, np.uint8))
    image.putpalette(list(range(30)))
    image.save(Path(data.root or "") / "labels/train/p1.png")
    message = refused(data)
    assert missing(message, "labels/train/p1.png", 9, 192) == []


def test_palette_label_of_valid_ids_is_fine(data: DataRecipe) -> None:
    image = Image.fromarray(np.full((12, 16), 2, np.uint8))
    image.putpalette(list(range(30)))
    image.save(Path(data.root or "") / "labels/train/p1.png")
    assert check_pairs(data, progress=False).errors == ()


def test_rgb_label(data: DataRecipe) -> None:
    put_label(Path(data.root or "") / "labels/train/p1.png", np.full((12, 16, 3), (0, 255, 9), np.uint8))
    assert missing(refused(data), "labels/train/p1.png", "#00ff09", 192, '"labels"') == []


def test_jpeg_label(data: DataRecipe) -> None:
    root = Path(data.root or "")
    Image.new("L", (16, 12)).save(root / "labels/train/p1.png", format="JPEG")
    assert missing(refused(data), "labels/train/p1.png", "JPEG", "PNG") == []


def test_image_without_label(data: DataRecipe) -> None:
    (Path(data.root or "") / "labels/train/p1.png").unlink()
    with pytest.raises(ValueError, match=facts(1, "p1.png", f"{data.root}/labels/train/p1.png")):
        check_pairs(data, progress=False)


def test_differing_sizes(data: DataRecipe) -> None:
    put_image(Path(data.root or "") / "images/train/p1.png", (10, 16))
    message = refused(data)
    assert missing(message, "labels/train/p1.png", "12×16", "10×16") == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_truncated_image(data: DataRecipe, suffix: str) -> None:
    root = Path(data.root or "")
    (root / "images/train/p1.png").unlink()
    path = root / f"images/train/p1{suffix}"
    put_image(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert f"images/train/p1{suffix}: " in refused(data)


def test_unreadable_files(data: DataRecipe) -> None:
    root = Path(data.root or "")
    (root / "images/train/p0.png").write_bytes(b"no image")
    label = root / "labels/train/p1.png"
    label.write_bytes(label.read_bytes()[:50])
    message = refused(data)
    assert missing(message, 2, "images/train/p0.png", "PNG, JPEG, WEBP, TIFF, BMP", "labels/train/p1.png") == []


def test_empty_split(data: DataRecipe) -> None:
    (Path(data.root or "") / "images/val/v0.png").unlink()
    with pytest.raises(ValueError, match=facts("'val'", f"{data.root}/images/val", "images/train/*.jpg")):
        check_pairs(data, progress=False)


def binary(data: DataRecipe, *, names: tuple[str, ...], **labels: object) -> None:
    root = Path(data.root or "")
    put_classes(root, ["background", "thing"], **labels)
    for split, stems in (("train", NAMES), ("val", ("v0",))):
        for name in stems:
            high = 255 if name in names else 1
            put_label(root / f"labels/{split}/{name}.png", np.tile(np.uint8([0, high]), (12, 8)))


def test_masks_of_0_and_255_with_two_classes(data: DataRecipe) -> None:
    binary(data, names=(*NAMES, "v0"))
    message = refused(data)
    assert missing(message, 1, "labels/train/p0.png", 3, '"labels": {"0": 0, "255": 1}') == []


def test_masks_of_0_and_255_whose_map_lacks_255(data: DataRecipe) -> None:
    binary(data, names=("p1",), **{"0": 0, "1": 1})
    message = refused(data)
    assert missing(message, "labels/train/p1.png", 255, 96, '"labels": {"0": 0, "255": 1}') == []


def test_255_beside_real_foreground_is_only_ignored(data: DataRecipe) -> None:
    binary(data, names=("p1",))
    assert check_pairs(data, progress=False).errors == ()


def test_255_mapped_to_the_second_class_is_fine(data: DataRecipe) -> None:
    binary(data, names=(*NAMES, "v0"), **{"0": 0, "255": 1})
    report = check_pairs(data, progress=False)
    assert report.pixels.tolist() == [4 * 96, 4 * 96]


def test_an_ignored_mask_is_a_warning(data: DataRecipe, caplog: pytest.LogCaptureFixture) -> None:
    put_label(Path(data.root or "") / "labels/train/p1.png", np.full((12, 16), 255, np.uint8))
    with caplog.at_level(logging.WARNING):
        report = check_pairs(data, progress=False)
    assert len(report.warnings) == 1
    assert missing(caplog.text, "WARNING", "labels/train/p1.png") == []


# --- the message -------------------------------------------------------------------------------------------------


def test_all_problems_are_collected_and_twenty_are_shown(data: DataRecipe) -> None:
    root = Path(data.root or "")
    for index in range(30):
        put_image(root / f"images/train/q{index:02}.png")
        put_image(root / f"labels/train/q{index:02}.png")
    report = inspect_pairs(find_pairs(data, "train"), data, Classes.from_dict({"classes": ["a", "b", "c"]}))
    # one by file, and before them that the labels are of two kinds
    assert len(report.errors) == 31
    assert (report.errors[0].kind, report.errors[0].source) == ("values", None)
    with pytest.raises(ValueError, match=facts(31, 33)) as caught:
        report.raise_if_bad()
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert "q18.png" in lines[20]
    assert missing(lines[21], 11) == []


def test_an_empty_report_is_good() -> None:
    CheckReport(0, (), (), np.zeros(2, np.int64), 0).raise_if_bad()


def test_real_data_is_good(camvid: Path, ade20k_mini: Path) -> None:
    report = check_pairs(DataRecipe(root=str(camvid), classes="camvid"), splits=("val",), progress=False)
    assert report.pairs == 101
    assert int(report.pixels.sum()) + report.ignored == 101 * 360 * 480
    ade = DataRecipe(
        root=str(ade20k_mini), classes="ade20k", labels="annotations/{split}", image_suffix=".jpg",
        train_split="training", val_split="validation",
    )  # fmt: skip
    assert check_pairs(ade, progress=False).pairs == 20


def test_a_image_in_both_splits(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in NAMES:
        put_image(tmp_path / f"images/{name}.png")
        put_label(tmp_path / f"labels/{name}.png", np.tile(np.uint8([0, 1, 2, 255]), (12, 4)))
    put_classes(tmp_path, ["a", "b", "c"])
    (tmp_path / "train.txt").write_text("p0\np1\n")
    (tmp_path / "val.txt").write_text("p1\np2\n")
    data = DataRecipe(root=str(tmp_path), images="images", labels="labels")
    with pytest.raises(ValueError, match=facts("p1.png", "'train'", "'val'", 1, 3)):
        check_pairs(data, progress=False)
    assert check_pairs(replace(data, val_split="train"), progress=False).pairs == 2, "the same split twice is meant"


# --- copies across splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("storage", ["folder", "zip"])
def test_copies_of_training_images_in_validation_are_a_warning(
    data: DataRecipe, caplog: pytest.LogCaptureFixture, count: int, storage: str
) -> None:
    root = Path(data.root or "")
    random = np.random.default_rng(7)
    # all images have one size in pixels, and bitmaps of them one size in bytes
    for path in [*(root / "images/train").iterdir(), *(root / "images/val").iterdir()]:
        path.unlink()
        Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path.with_suffix(".bmp"))
    for index in range(count):
        shutil.copy(root / f"images/train/p{index}.bmp", root / f"images/val/w{index}.bmp")
        shutil.copy(root / f"labels/train/p{index}.png", root / f"labels/val/w{index}.png")
    shutil.copy(root / "images/train/p0.bmp", root / "images/train/p9.bmp")
    shutil.copy(root / "labels/train/p0.png", root / "labels/train/p9.png")
    where = str(root)
    if storage == "zip":
        where = shutil.make_archive(str(root.parent / f"{root.name}-packed"), "zip", root)
    check_pairs(replace(data, root=where), progress=False)
    assert len(caplog.messages) == (count > 0), "copies within the training split are none of these"
    examples = [f"{where}/images/{at}{index}.bmp" for at in ("train/p", "val/w") for index in range(min(count, 2))]
    assert missing(caplog.text, *([count, "'train'", "'val'", *examples] if count else [])) == []
    assert "w2.bmp" not in caplog.text, "two examples will do"
    caplog.clear()
    check_pairs(replace(data, root=where), splits=("val",), progress=False)
    assert caplog.messages == []
