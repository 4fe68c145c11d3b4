import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from semask.data.checks.check import digest_split
from semask.data.pairs import find_pairs
from semask.recipes.recipe import DataRecipe
from tests.facts import facts, missing


def tree(root: Path, *names: str) -> DataRecipe:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return DataRecipe(root=str(root))


def stems(data: DataRecipe, split: str = "train") -> list[str]:
    return [pair.stem for pair in find_pairs(data, split)]


# --- layouts -----------------------------------------------------------------------------------------------------


def test_a_folder_per_split(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/b.jpg", "images/train/a.PNG", "images/val/c.jpeg", "labels/train/a.png",
                "labels/train/b.png", "labels/val/c.png")  # fmt: skip
    pairs = find_pairs(data, "train")
    assert [(p.stem, p.image.name, p.label.name) for p in pairs] == [("a", "a.PNG", "a.png"), ("b", "b.jpg", "b.png")]
    assert stems(data, "val") == ["c"]
    assert stems(replace(data, images="images", labels="labels"), "val") == ["c"], "found without the placeholder too"


@pytest.mark.parametrize("patterns", [("images", "labels"), ("images/{split}", "labels/{split}")])
def test_one_folder_with_split_files(tmp_path: Path, patterns: tuple[str, str]) -> None:
    data = tree(tmp_path, *(f"images/{s}.jpg" for s in "abcd"), *(f"labels/{s}.png" for s in "abcd"))
    (tmp_path / "train.txt").write_text("d\n\na.jpg\n")
    (tmp_path / "val.txt").write_text("b\n")
    data = replace(data, images=patterns[0], labels=patterns[1])
    assert stems(data) == ["a", "d"]
    assert stems(data, "val") == ["b"]


def test_split_files_select_from_split_folders(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "images/train/b.jpg", "labels/train/a.png", "labels/train/b.png")
    (tmp_path / "train.txt").write_text("b\n")
    assert stems(data) == ["b"]


def test_cityscapes_layout(tmp_path: Path) -> None:
    data = tree(
        tmp_path,
        "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png",
        "leftImg8bit/train/bonn/bonn_0_leftImg8bit.png",
        "gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png",
        "gtFine/train/ulm/ulm_0_gtFine_color.png",
        "gtFine/train/ulm/ulm_0_gtFine_polygons.json",
        "gtFine/train/bonn/bonn_0_gtFine_labelTrainIds.png",
    )
    data = replace(
        data, images="leftImg8bit/{split}", labels="gtFine/{split}",
        image_suffix="_leftImg8bit.png", label_suffix="_gtFine_labelTrainIds.png",
    )  # fmt: skip
    assert stems(data) == ["bonn/bonn_0", "ulm/ulm_0"]
    assert find_pairs(data, "train")[1].label == tmp_path / "gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png"


def test_names_in_split_files_may_leave_the_sub_folder_out(tmp_path: Path) -> None:
    data = replace(tree(tmp_path, "images/x/a.jpg", "images/y/b.jpg", "images/y/a.jpg", "labels/x/a.png",
                        "labels/y/b.png", "labels/y/a.png"), images="images", labels="labels")  # fmt: skip
    (tmp_path / "train.txt").write_text("b\ny/a\n")
    assert stems(data) == ["y/a", "y/b"]
    (tmp_path / "train.txt").write_text("a\n")
    with pytest.raises(ValueError, match=facts(tmp_path / "train.txt", "a")):
        stems(data)


def test_camvid(camvid: Path) -> None:
    data = DataRecipe(root=str(camvid), classes="camvid")
    train, val = stems(data), stems(data, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train == sorted((camvid / "train.txt").read_text().split())
    assert not set(train) & set(val)


def test_ade20k(ade20k_mini: Path) -> None:
    data = DataRecipe(root=str(ade20k_mini), labels="annotations/{split}", image_suffix=".jpg")
    for split in ("training", "validation"):
        split_data = replace(data, train_split="training", val_split="validation")
        assert len(find_pairs(split_data, split)) == 10


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "images/train/._a.jpg", "images/train/.DS_Store",
                "images/train/Thumbs.db", "images/train/notes.txt", "labels/train/a.png")  # fmt: skip
    assert stems(data) == ["a"]


def test_without_splits_a_tenth_by_name_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"picture{i}" for i in range(30)]
    data = tree(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    data = replace(data, images="images", labels="labels")
    with caplog.at_level(logging.WARNING):
        train, val = stems(data), stems(data, "val")
    assert len(caplog.messages) == 1, "reported once, though asked for twice"
    assert missing(caplog.text, tmp_path, 3, 30, "train.txt", "val.txt") == []
    assert sorted(train + val) == sorted(names)
    assert val == sorted(sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())[:3])


def test_names_that_are_no_text_are_held_out_and_have_a_digest(tmp_path: Path) -> None:
    names = [os.fsdecode(f"p{number}".encode() + b"\xff") for number in range(3)]
    data = tree(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    data = replace(data, images="images", labels="labels")
    assert sorted(stems(data) + stems(data, "val")) == sorted(names)
    assert digest_split(data, "train") != digest_split(data, "val")


# --- what can be wrong -------------------------------------------------------------------------------------------


def test_no_root_is_reported() -> None:
    with pytest.raises(ValueError, match=facts("--data.root", "images/train/*.jpg")):
        find_pairs(DataRecipe(), "train")


def test_a_wrong_root_shows_the_expected_tree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts("data.root", repr(str(tmp_path / "nowhere")))) as caught:
        find_pairs(DataRecipe(root=str(tmp_path / "nowhere"), label_suffix="_x.png"), "train")
    for line in ("images/train/*.jpg", "images/val/*.jpg", "labels/train/*_x.png", "train.txt, val.txt"):
        assert line in str(caught.value)
    with pytest.raises(ValueError, match=facts(tmp_path / "images/train", "images/train/*.jpg")):
        find_pairs(DataRecipe(root=str(tmp_path)), "train")


def test_the_flat_folder_is_not_taken_for_a_missing_split(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "labels/train/a.png")
    with pytest.raises(ValueError, match=facts(tmp_path / "images/val", "images/train/*.jpg")):
        find_pairs(data, "val")
    with pytest.raises(ValueError, match=facts(tmp_path / "images/val")):
        find_pairs(replace(data, images="images", labels="labels"), "val")


def test_images_without_labels_are_named_and_counted(tmp_path: Path) -> None:
    data = tree(tmp_path, *(f"images/train/p{i}.jpg" for i in range(9)), "labels/train/p8.png")
    with pytest.raises(ValueError, match=facts(8)) as caught:
        find_pairs(data, "train")
    message = str(caught.value)
    assert missing(message, "p0.jpg, p1.jpg, p2.jpg, p3.jpg, p4.jpg", 3, tmp_path / "labels/train/p0.png") == []
    assert "p5.jpg" not in message


def test_labels_without_images_are_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "labels/train/a.png", "labels/train/z.png")
    assert stems(data) == ["a"]
    assert missing(caplog.text, "WARNING", 1, tmp_path / "labels/train", "z") == []


def test_jpeg_labels_are_reported_as_such(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "labels/train/a.jpg")
    with pytest.raises(ValueError, match=facts(1, "JPEG", "a.jpg", tmp_path / "labels/train", "PNG")):
        find_pairs(data, "train")


def test_an_empty_split_is_reported(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/readme.md", "labels/train/a.png")
    with pytest.raises(ValueError, match=facts("'train'", tmp_path / "images/train")):
        find_pairs(data, "train")
    data = tree(tmp_path, "images/train/a.jpg")
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match=facts(tmp_path / "train.txt")):
        find_pairs(data, "train")


def test_one_image_cannot_be_both_splits(tmp_path: Path) -> None:
    data = replace(tree(tmp_path, "images/a.jpg", "labels/a.png"), images="images", labels="labels")
    with pytest.raises(ValueError, match=facts("'train'", tmp_path / "images")):
        find_pairs(data, "train")


def test_two_images_of_one_stem_are_reported(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/train/a.jpg", "images/train/a.png", "labels/train/a.png")
    with pytest.raises(ValueError, match=facts(tmp_path / "images/train/a.jpg", tmp_path / "images/train/a.png")):
        find_pairs(data, "train")


def test_split_files_that_name_what_is_not_there(tmp_path: Path) -> None:
    data = tree(tmp_path, "images/a.jpg", "labels/a.png")
    (tmp_path / "train.txt").write_text("a\nb\n../secret\n")
    with pytest.raises(ValueError, match=facts(tmp_path / "train.txt", 2, "b, ../secret")):
        find_pairs(data, "train")
    with pytest.raises(ValueError, match=facts(tmp_path / "val.txt")):
        find_pairs(data, "val")
