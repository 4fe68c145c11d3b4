"""Shards of WebDataset are as good as files, and incomplete ones are reported."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from semask.data.pairs import find_pairs
from semask.data.readers.image import read_label
from semask.data.readers.shards import find_shards
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.stored import (
    CLASSES,
    SPLITS,
    assert_same_samples,
    encoded,
    make_tar,
    random_image,
    sample,
    truth,
    unpacked,
)


def test_shards_of_webdataset_are_as_good_as_files(tmp_path: Path) -> None:
    """Written by the library itself, over several shards, with fields that are no images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

    for split, numbers in SPLITS.items():
        pattern = str(tmp_path / f"{split}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
            for number in numbers:
                writer.write({"__key__": f"p{number}", "json": {"number": number}, **sample(number)})
    (tmp_path / "classes.json").write_text(CLASSES)
    data = DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar")
    numbered = replace(data, images="{split}-{000000..000001}.tar")
    assert find_pairs(numbered, "train") == find_pairs(data, "train")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["p0", "p1", "p2"]
    assert_same_samples(data, unpacked(tmp_path / "folder"))


@pytest.mark.parametrize("label", ["seg.png", "label.png", "mask.png", "png"])
def test_names_of_labels_in_shards(tmp_path: Path, label: str) -> None:
    files = {"d/0.jpg": encoded(random_image(0), "JPEG"), f"d/0.{label}": encoded(truth(0)), "d/0.cls": b"5", ".x": b""}
    make_tar(tmp_path / "train-0.tar", files)
    pair = find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")[0]
    assert (pair.stem, pair.image.name, pair.label.name) == ("d/0", "0.jpg", f"0.{label}")
    assert read_label(pair.label).tolist() == truth(0).tolist()


def test_shards_by_number_and_what_is_missing(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        make_tar(tmp_path / f"train-{number:03}.tar", {})
    assert [p.name for p in find_shards(tmp_path, "{split}-{000..001}.tar", "train")] == [
        "train-000.tar",
        "train-001.tar",
    ]
    with pytest.raises(ValueError, match=facts(1, "train-002.tar", "'train'", "data.images", "KEY.seg.png")):
        find_shards(tmp_path, "{split}-{000..003}.tar", "train")
    with pytest.raises(ValueError, match=facts("'val'", "data.images", "'{split}-*.tar'")):
        find_shards(tmp_path, "{split}-*.tar", "val")
    with pytest.raises(ValueError, match=facts("data.images", "'images/{split}'")):
        find_shards(tmp_path, "images/{split}", "train")
    with pytest.raises(ValueError, match=facts("data.images", "{3..1}", 100000)):
        find_shards(tmp_path, "{split}-{3..1}.tar", "train")
    with pytest.raises(ValueError, match=facts("'train'", tmp_path)):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"0.jpg": b""}, (".jpg", ".seg.png, .label.png, .mask.png")),
        ({"0.seg.png": b""}, (".seg.png", ".png, .jpg, .jpeg, .webp")),
        ({"0.jpg": b"", "0.webp": b"", "0.seg.png": b""}, (".jpg, .webp, .seg.png",)),
        ({"0.jpg": b"", "0.seg.png": b"", "0.mask.png": b""}, (".jpg, .seg.png, .mask.png",)),
    ],
)
def test_incomplete_samples_are_reported(tmp_path: Path, files: dict[str, bytes], wanted: tuple[str, ...]) -> None:
    make_tar(tmp_path / "train-0.tar", files)
    with pytest.raises(ValueError, match=facts(tmp_path / "train-0.tar", "'0'", *wanted)):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


def test_one_key_in_two_shards_is_reported(tmp_path: Path) -> None:
    for number in (0, 1):
        make_tar(tmp_path / f"train-{number}.tar", {"a.jpg": b"", "a.seg.png": b""})
    with pytest.raises(ValueError, match=facts("'a'", f"{tmp_path}/train-0.tar/a.jpg", tmp_path / "train-1.tar")):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


def test_hidden_files_and_shards_are_no_data(tmp_path: Path) -> None:
    whole = {"a.jpg": b"", "a.seg.png": b""}
    hidden = {f"{at}b.{end}": b"" for at in ("._", ".x/", "@eaDir/", "__MACOSX/") for end in ("jpg", "seg.png", "png")}
    make_tar(tmp_path / "train-0.tar", {f"./{name}": content for name, content in (whole | hidden).items()})
    (tmp_path / "._train-0.tar").write_bytes(b"of macOS")
    data = DataRecipe(kind="shards", root=str(tmp_path), images="*{split}-*.tar")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["a"]


@pytest.mark.parametrize(
    ("first", "second"), [("a.jpg", "a.JPG"), ("d/a.seg.png", "d/a.SEG.png"), ("\u00e9.png", "e\u0301.png")]
)
def test_two_files_of_one_role_are_refused(tmp_path: Path, first: str, second: str) -> None:
    path = make_tar(tmp_path / "train-0.tar", {first: b"", second: b""})
    with pytest.raises(ValueError, match=facts(f"{path}/{first}", f"{path}/{second}")):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


def test_composed_and_decomposed_keys_pair_up(tmp_path: Path) -> None:
    make_tar(tmp_path / "train-0.tar", {"\u00e9.jpg": b"", "e\u0301.seg.png": b""})
    data = DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["\u00e9"]
