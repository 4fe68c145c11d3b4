"""Images out of zip files are those that went in, and bad archives are reported."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semask.data.dataset import classes_of, validation_set
from semask.data.pairs import find_pairs
from semask.data.readers import archives
from semask.data.readers.image import probe_image, read_image, read_label
from semask.data.readers.source import Source, Unreadable
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.stored import FILES, assert_same_samples, encoded, make_zip, random_image, truth, unpacked


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "ADEChallengeData2016/"])
def test_a_zip_file_is_as_good_as_its_folder(tmp_path: Path, method: int, top: str) -> None:
    hidden = {"__MACOSX/images/train/._p0.png": b"", f"{top}images/train/.DS_Store": b""}
    archive = make_zip(tmp_path / "a.zip", {top + n: c for n, c in FILES.items()} | hidden, method=method)
    data = DataRecipe(root=str(archive))
    assert classes_of(data).names == ("a", "b", "c")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["p0", "p1", "p2"]
    assert_same_samples(data, unpacked(tmp_path / "folder"))
    pair = find_pairs(data, "val")[0]
    assert (str(pair.image), pair.image.name) == (f"{archive}/{top}images/val/p3.png", "p3.png")


def test_zip_files_side_by_side_in_a_folder(tmp_path: Path) -> None:
    """As Cityscapes comes: images in one archive and labels in another, with more beside them."""
    images = {f"leftImg8bit/train/ulm/u{n}_leftImg8bit.png": encoded(random_image(n)) for n in (0, 1)}
    labels = {f"gtFine/train/ulm/u{n}_gtFine_labelTrainIds.png": encoded(truth(n)) for n in (0, 1)}
    make_zip(tmp_path / "leftImg8bit_trainvaltest.zip", images | {"README": b"x", "license.txt": b"x"})
    make_zip(tmp_path / "gtFine_trainvaltest.zip", labels | {"README": b"x"})
    data = DataRecipe(
        root=str(tmp_path),
        images="leftImg8bit_trainvaltest.zip/leftImg8bit/{split}",
        labels="gtFine_trainvaltest.zip/gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
    )
    pairs = find_pairs(data, "train")
    assert [pair.stem for pair in pairs] == ["ulm/u0", "ulm/u1"]
    assert read_label(pairs[1].label).tolist() == truth(1).tolist()
    with pytest.raises(ValueError, match=facts(f"{tmp_path}/leftImg8bit_trainvaltest.zip/leftImg8bit/val")):
        find_pairs(data, "val")


def test_split_files_in_a_zip_file_choose(tmp_path: Path) -> None:
    files = {f"images/p{n}.png": encoded(random_image(n)) for n in range(3)}
    files |= {f"labels/p{n}.png": encoded(truth(n)) for n in range(3)}
    lists = {"train.txt": b"p0\np2\n", "val.txt": b"p1\n"}
    data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", files | lists)), images="images", labels="labels")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["p0", "p2"]
    make_zip(tmp_path / "a.zip", files | lists | {"train.txt": "p0\n".encode("utf-16")})
    with pytest.raises(ValueError, match=facts(f"{tmp_path}/a.zip/train.txt", "UTF-8")):
        find_pairs(data, "train")


def test_a_member_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", FILES)))
    assert archives.MAX_BYTES == 2**28
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"^\S*a\.zip/images/train/p0\.png: .*\b236\b.*\b100\b"):
        read_image(find_pairs(data, "train")[0].image)


def test_a_bomb_is_not_unpacked_beyond_what_it_declares(tmp_path: Path) -> None:
    """100 MB of zeros that claim to be 50 bytes; only 51 are ever made."""
    archive = make_zip(tmp_path / "a.zip", {"images/train/p.png": bytes(100_000_000)})
    raw = archive.read_bytes()
    sizes = struct.pack("<L", 100_000_000)
    assert raw.count(sizes) >= 1
    archive.write_bytes(raw.replace(sizes, struct.pack("<L", 50)))
    member = archives.open_zip(archive).members["images/train/p.png"]
    assert member.size == 50
    with pytest.raises(Unreadable, match=facts(f"{tmp_path}/a.zip/images/train/p.png")):
        member.open("rb")


def message_of(source: Source) -> str:
    try:
        probe_image(source)
    except ValueError as error:
        return str(error)
    return ""


def test_damaged_zip_files_are_reported(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    pairs = find_pairs(DataRecipe(root=str(archive)), "train")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:1000] + bytes(200) + whole[1200:])
    messages = {str(source): message_of(source) for pair in pairs for source in (pair.image, pair.label)}
    damaged = {name: message for name, message in messages.items() if message}
    assert damaged
    assert all(message.startswith(name) for name, message in damaged.items())
    archive.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=facts(archive)):
        find_pairs(DataRecipe(root=str(archive)), "train")
    with pytest.raises(ValueError, match=facts(pairs[-1].image)):
        read_image(pairs[-1].image)


def test_large_zip_files_and_ones_behind_a_program(tmp_path: Path) -> None:
    """Headers of zip64 are longer, a self-extracting archive begins later, and streams have sizes after the content."""
    with (tmp_path / "a.zip").open("wb") as file:
        file.write(b"#!/bin/sh\nexit 1\n" * 100)
        with zipfile.ZipFile(file, "w") as archive, archive.open("a/x.bin", "w", force_zip64=True) as member:
            member.write(b"first" * 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("a/y.bin", b"second")
    streamed = io.BytesIO()
    streamed.seekable = lambda: False  # type: ignore[method-assign]
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z.bin", b"third" * 1000)
    (tmp_path / "b.zip").write_bytes(streamed.getvalue())
    members = archives.open_zip(tmp_path / "a.zip").members | archives.open_zip(tmp_path / "b.zip").members
    read = {name: member.open("rb").read() for name, member in members.items()}
    assert read == {"a/x.bin": b"first" * 1000, "a/y.bin": b"second", "z.bin": b"third" * 1000}


def test_zip_files_that_are_not_read(tmp_path: Path) -> None:
    bzip = make_zip(tmp_path / "b.zip", FILES, method=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=facts(f"{bzip}/classes.json", 12)):
        find_pairs(DataRecipe(root=str(bzip)), "train")
    raw = bytearray(make_zip(tmp_path / "d.zip", FILES).read_bytes())
    raw[-6] += 1  # where the list of members begins, counted from an archive's beginning: now that is before the file's
    (tmp_path / "d.zip").write_bytes(raw)
    with pytest.raises(ValueError, match=facts(f"{tmp_path}/d.zip/classes.json")):
        find_pairs(DataRecipe(root=str(tmp_path / "d.zip")), "train")
    raw = bytearray(make_zip(tmp_path / "c.zip", {"images/train/a.png": b"x"}).read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "c.zip").write_bytes(raw)
    with pytest.raises(ValueError, match=facts(f"{tmp_path}/c.zip/images/train/a.png")):
        find_pairs(DataRecipe(root=str(tmp_path / "c.zip")), "train")


def test_ade20k_zipped(ade20k_mini: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ADEChallengeData2016.zip", "w") as archive:
        for path in sorted(ade20k_mini.rglob("*.*")):
            archive.write(path, f"ADEChallengeData2016/{path.relative_to(ade20k_mini)}")
    layout = DataRecipe(
        classes="ade20k", labels="annotations/{split}", image_suffix=".jpg",
        train_split="training", val_split="validation",
    )  # fmt: skip
    zipped = validation_set(replace(layout, root=str(tmp_path / "ADEChallengeData2016.zip")))
    folder = validation_set(replace(layout, root=str(ade20k_mini)))
    assert len(zipped) == len(folder) == 10
    assert torch.equal(zipped[4].image, folder[4].image)
    assert torch.equal(zipped[4].label, folder[4].label)
    assert zipped[4].name == folder[4].name


def raw_zip(path: Path, names: list[str]) -> Path:
    """A zip file with names as they are given, even twice."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for number, name in enumerate(names):
            archive.writestr(name, b"" if name.endswith(("/", "\\")) else bytes([number]))
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/b.png", "a/b.png"),
        ("a/b.png", "a\\b.png"),
        ("a/b.png", "./a/b.png"),
        (".\\a\\b.png", "a//b.png"),
        ("a/./b.png", "a/b.png"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_files_of_one_path_are_refused(tmp_path: Path, first: str, second: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        raw_zip(path, ["classes.json", first, "c.png", second])
    else:
        with tarfile.open(path, "w") as archive:
            for name in ("classes.json", first, "c.png", second):
                archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match=facts(path)) as caught:
        archives.open_zip(path) if kind == "zip" else archives.tar_members(path)
    assert [name for name in (repr(first), repr(second)) if name not in str(caught.value)] == []


def test_folders_may_be_listed_twice(tmp_path: Path) -> None:
    members = archives.open_zip(raw_zip(tmp_path / "a.zip", ["a/", "a/", "a\\", "./a/", "a/b.png"])).members
    assert list(members) == ["a/b.png"]


@pytest.mark.parametrize("top", ["", "top\\", ".\\", "./top/"])
def test_backslashes_are_read_as_paths(tmp_path: Path, top: str) -> None:
    """As some programs of Windows write them."""
    files = {top + name.replace("/", "\\"): content for name, content in FILES.items()}
    data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", files | {f"{top}images\\train\\": b""})))
    assert [pair.stem for pair in find_pairs(data, "train")] == ["p0", "p1", "p2"]
    assert find_pairs(data, "val")[0].image.name == "p3.png"
    assert_same_samples(data, unpacked(tmp_path / "folder"))
