import hashlib
import logging
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from semask.data.checks.check import digest_split
from semask.data.holdout import hold_out
from semask.data.pairs import find_pairs, find_splits
from semask.recipes.recipe import DataRecipe
from tests.facts import facts, missing
from tests.unit.stored import make_zip


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


def test_without_splits_images_are_held_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"picture{i}" for i in range(30)]
    data = tree(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    data = replace(data, images="images", labels="labels")
    with caplog.at_level(logging.WARNING):
        train, val = stems(data), stems(data, "val")
    assert len(caplog.messages) == 1, "reported once, though asked for twice"
    assert missing(caplog.text, tmp_path, 6, 30, "train.txt", "val.txt") == []
    assert sorted(train + val) == sorted(names)
    assert val == sorted(sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())[:6])


def test_small_sets_hold_back_more_and_keep_half() -> None:
    for count in range(2, 400):
        held = len(hold_out([str(number) for number in range(count)]))
        assert held >= min(5, count // 2)
        assert held >= (0.2 * count - 0.5 if 10 <= count <= 100 else round(count / 10))
        assert count - held >= count / 2
    assert len(hold_out(["one"])) == 1


def test_unused_labels_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"p{number}" for number in range(4)]
    data = tree(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in [*names, "spare"]))
    for split in ("train", "val", "train"):
        find_pairs(replace(data, images="images", labels="labels"), split)
    (unused,) = [message for message in caplog.messages if "train.txt" not in message]
    assert missing(unused, 1, "spare", tmp_path / "labels") == []


def test_names_that_are_no_text_are_held_out_and_have_a_digest(tmp_path: Path) -> None:
    names = [os.fsdecode(f"p{number}".encode() + b"\xff") for number in range(3)]
    data = tree(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    data = replace(data, images="images", labels="labels")
    assert sorted(stems(data) + stems(data, "val")) == sorted(names)
    assert digest_split(data, "train") != digest_split(data, "val")


# --- splits beside the recipe's ---


@pytest.mark.parametrize("images", ["images/{split}", "images"])
@pytest.mark.parametrize("zipped", [False, True])
def test_folders_of_images_and_labels_are_splits(tmp_path: Path, images: str, zipped: bool) -> None:
    names = [f"{kind}/{split}/a.png" for kind in ("images", "labels") for split in ("train", "val", "test", ".old")]
    data = tree(tmp_path / "data", *names, "images/unlabelled/a.png", "labels/nothing/a.png")
    if zipped:
        files = {path.relative_to(tmp_path).as_posix(): b"" for path in tmp_path.rglob("*.png")}
        data = replace(data, root=str(make_zip(tmp_path / "data.zip", files)))
    data = replace(data, images=images, labels=images.replace("images", "labels"))
    assert find_splits(data) == ("train", "val", "test")
    assert stems(data, "test") == ["a"]


def test_lists_of_images_are_splits(tmp_path: Path) -> None:
    data = tree(tmp_path, *(f"images/{s}.jpg" for s in "abcdef"), *(f"labels/{s}.png" for s in "abcdef"))
    for name, listed in {
        "train": "a b c", "val": "d", "test": "e f", "trainval": "a b c d", "train_few": "a", "all": "a b c d e f",
        "hard": "c d", "classes": "road sky", "empty": "",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.txt").write_text("\n".join(listed.split()))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert find_splits(data) == ("train", "val", "hard", "test")
    assert stems(data, "test") == ["e", "f"]
    with pytest.raises(ValueError, match=facts(tmp_path / "holdout.txt")):
        stems(data, "holdout")


def test_sub_folders_of_one_folder_for_all_are_no_splits(tmp_path: Path) -> None:
    data = tree(tmp_path, *(f"{kind}/{day}/{s}.png" for kind in ("images", "labels") for day in "xy" for s in "abc"))
    data = replace(data, images="images", labels="labels")
    assert find_splits(data) == ("train", "val")
    assert len(stems(data)) + len(stems(data, "val")) == 6
    with pytest.raises(ValueError, match=facts(tmp_path / "test.txt")):
        stems(data, "test")


def test_lists_of_voc_lie_in_a_folder(tmp_path: Path) -> None:
    data = tree(tmp_path, *(f"JPEG/{s}.jpg" for s in "abc"), *(f"Class/{s}.png" for s in "abc"))
    (tmp_path / "sets/main").mkdir(parents=True)
    for name, listed in {"train": "a", "val": "b", "trainval": "a b", "test": "c"}.items():
        (tmp_path / f"sets/main/{name}.txt").write_text("\n".join(listed.split()))
    data = replace(data, images="JPEG", labels="Class", train_split="sets/main/train", val_split="sets/main/val")
    assert find_splits(data) == ("sets/main/train", "sets/main/val", "sets/main/test")


def test_splits_of_real_data(camvid: Path, ade20k_mini: Path) -> None:
    assert find_splits(DataRecipe(root=str(camvid), classes="camvid"))[:2] == ("train", "val")
    data = DataRecipe(root=str(ade20k_mini), labels="annotations/{split}", image_suffix=".jpg")
    assert find_splits(replace(data, train_split="training", val_split="validation")) == ("training", "validation")


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


# --- names and suffixes ------------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zürich/Škoda é_가") for form in ("NFC", "NFD"))


def test_composed_and_decomposed_names_pair_up(tmp_path: Path) -> None:
    """As macOS writes them, whose decomposed names look the same."""
    assert COMPOSED != DECOMPOSED
    for number, (image, label) in enumerate(((COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (DECOMPOSED, DECOMPOSED))):
        root = tmp_path / str(number)
        data = tree(root, f"images/{image}.jpg", f"labels/{label}.png", "images/b.jpg", "labels/b.png")
        data = replace(data, images="images", labels="labels")
        for listed in (COMPOSED, DECOMPOSED, DECOMPOSED.rpartition("/")[2]):
            (root / "train.txt").write_text(f"{listed}.jpg\n", encoding="utf-8")
            assert stems(data) == [COMPOSED]


@pytest.mark.parametrize(("there", "given"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_composed_and_decomposed_folders_are_found(tmp_path: Path, there: str, given: str) -> None:
    files = [f"{folder}/{there}/{split}/a.png" for folder in ("i", "l") for split in ("train", there)]
    data = tree(tmp_path / there, *files)
    make_zip(tmp_path / "a.zip", dict.fromkeys((*files, "classes.json"), b"x"))
    data = replace(data, images=f"i/{given}/{{split}}", labels=f"l/{given}/{{split}}", val_split=given)
    for root in (str(tmp_path / given), str(tmp_path / "a.zip")):
        found = replace(data, root=root)
        assert [pair.stem for split in ("train", given) for pair in find_pairs(found, split)] == ["a", "a"]


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize(
    "twins", [(f"{COMPOSED}.png", f"{DECOMPOSED}.png"), ("a.png", "a.PNG"), ("x/a.Png", "x/a.pNG")]
)
def test_names_that_are_the_same_are_refused(tmp_path: Path, folder: str, twins: tuple[str, str]) -> None:
    for each in ("images", "labels"):
        data = tree(tmp_path, *(f"{each}/train/{name}" for name in (twins if each == folder else twins[:1])))
    with pytest.raises(ValueError, match=facts(*(tmp_path / folder / "train" / name for name in twins))):
        stems(data)


def test_byte_order_marks_in_lists(tmp_path: Path) -> None:
    data = tree(tmp_path, *(f"images/{s}.jpg" for s in "abc"), *(f"labels/{s}.png" for s in "abc"))
    data = replace(data, images="images", labels="labels")
    (tmp_path / "val.txt").write_bytes(b"b\n")
    for content in ("\ufeffa\nc\n", "\ufeffa.jpg\r\nc.jpg\r\n", "\ufeffa\n\ufeffc\n", "\ufeff\na\nc", " \ufeff a\nc"):
        (tmp_path / "train.txt").write_bytes(content.encode())
        assert stems(data) == ["a", "c"], content
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match=facts(tmp_path / "train.txt")):
        stems(data)


def test_suffixes_of_any_case_are_found(tmp_path: Path) -> None:
    images = ("p1.PNG", "p2.Jpg", "x/p3.JPEG", "p4.tif", "p5.WebP", "p6.BMP")
    data = tree(
        tmp_path, *(f"images/{name}" for name in images),
        *(f"labels/{name.partition('.')[0]}{end}" for name, end in zip(images, (".png", ".PNG", ".Png") * 2, strict=True)),
    )  # fmt: skip
    data = replace(data, images="images", labels="labels")
    (tmp_path / "train.txt").write_text("p1.png\np2\np3.JPEG\nx/p3.jpeg\np4.TIF\np5.webp\np6.BMP\n")
    assert stems(data) == ["p1", "p2", "p4", "p5", "p6", "x/p3"]
    data = replace(tree(tmp_path / "2", "images/train/a_IMG.JPG", "labels/train/a_Ids.Png"), image_suffix="_img.jpg")
    assert stems(replace(data, label_suffix="_ids.png")) == ["a"]


@pytest.mark.parametrize(
    ("images", "labels", "there", "flags"),
    [
        (("p1.jpg", "p10.jpg"), ("p1_mask.png", "p10_mask.png"), "p1_mask.png", {"label": "_mask.png"}),
        (("a.jpg",), ("a.tif",), "a.tif", {"label": ".tif"}),
        (("a.PNG",), ("a.BMP",), "a.BMP", {"label": ".BMP"}),
        (("a.png", "b.png"), ("a_gt.TIFF", "b_gt.TIFF", "a.json"), "a_gt.TIFF", {"label": "_gt.TIFF"}),
        (("x/a.jpg",), ("x/a.labels.png",), "x/a.labels.png", {"label": ".labels.png"}),
        (("a_img.png", "b_img.png"), ("a_ids.png", "b_ids.png"), "a_ids.png", {"image": "img.png", "label": "ids.png"}),
        (("u_leftImg8bit.png",), ("u_gt.png", "v_gt.png"), "u_gt.png", {"image": "leftImg8bit.png", "label": "gt.png"}),
    ],
)  # fmt: skip
def test_labels_of_another_suffix_are_named_with_the_flag_that_fits(
    tmp_path: Path, images: tuple[str, ...], labels: tuple[str, ...], there: str, flags: dict[str, str]
) -> None:
    data = tree(tmp_path, *(f"images/train/{name}" for name in images), *(f"labels/train/{name}" for name in labels))
    given = (f"--data.{kind}-suffix {suffix}" for kind, suffix in flags.items())
    with pytest.raises(ValueError, match=facts(len(images), tmp_path / "labels/train" / there)) as caught:
        stems(data)
    assert [flag for flag in given if flag not in str(caught.value)] == []
    fitted = replace(data, **{f"{kind}_suffix": suffix for kind, suffix in flags.items()})
    assert len(stems(fitted)) == len(images), "and with the flags they are found"


@pytest.mark.parametrize(
    ("names", "there"),
    [
        (("images/train/a_0001.png", "images/train/a_0002.png", "labels/train/a_0001.png"), ""),
        (("images/train/a_0001.png", "labels/train/a_0002.png"), "a_0002.png"),
        (("images/train/a.png", "images/train/b.png", "labels/train/a.png", "labels/train/b.tif"), "b.tif"),
        (("images/train/img1.png", "labels/train/mask1.png"), "mask1.png"),
    ],
)
def test_no_flag_is_given_that_does_not_fit(tmp_path: Path, names: tuple[str, ...], there: str) -> None:
    data = tree(tmp_path, *names)
    with pytest.raises(ValueError, match=facts(1, there or tmp_path / "labels/train")) as caught:
        stems(data)
    assert "-suffix" not in str(caught.value)


@pytest.mark.parametrize("image", ["a.png", "x/a.JPG", f"{DECOMPOSED}.jpg"])
@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_polygons_of_labelme_are_reported_as_such(tmp_path: Path, image: str, suffix: str) -> None:
    label = f"{COMPOSED if image[:1] == 'Z' else image.rpartition('.')[0]}.json"
    data = replace(tree(tmp_path, f"images/train/{image}", f"labels/train/{label}"), label_suffix=suffix)
    with pytest.raises(ValueError, match=facts(1, tmp_path / "labels/train" / label, "LabelMe", "PNG")):
        stems(data)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.tif"])
def test_a_single_image_is_no_root_and_no_two_splits(tmp_path: Path, name: str) -> None:
    data = replace(tree(tmp_path, f"images/{name}", "labels/a.png"), images="images", labels="labels")
    with pytest.raises(ValueError, match=facts("data.root", "image", repr(str(tmp_path / "images" / name)))):
        stems(replace(data, root=str(tmp_path / "images" / name)))
    assert stems(data, "val") == ["a"]
    with pytest.raises(ValueError, match=facts("'train'", tmp_path / "images", 1, "train.txt", "val.txt")) as caught:
        stems(data)
    assert "no image" not in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "there", "wanted"),
    [
        (".jpg", "a.png", "--data.image-suffix .png"),
        (".jpg", "x/a.TIF", "--data.image-suffix .TIF"),
        ("", "a.gif", ".png"),
    ],
)
def test_images_of_another_suffix_are_named_with_the_flag_that_fits(
    tmp_path: Path, suffix: str, there: str, wanted: str
) -> None:
    data = replace(tree(tmp_path, f"images/train/{there}", "labels/train/a.png"), image_suffix=suffix)
    with pytest.raises(ValueError, match=facts("'train'", tmp_path / "images/train", there)) as caught:
        stems(data)
    assert wanted in str(caught.value)


def test_copies_in_hidden_folders_are_no_data(tmp_path: Path) -> None:
    for place in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-0/files", "lost+found"):
        data = tree(
            tmp_path, *(f"{kind}/train/{at}.png" for kind in ("images", "labels") for at in ("a", f"{place}/b"))
        )
    assert stems(data) == ["a"]
