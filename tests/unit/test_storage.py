"""Pictures out of zip files, tar shards and saved datasets are those that went in, and bad archives are told."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from semask.data import source as source_module
from semask.data import tar_file, zip_file
from semask.data.archive import open_download
from semask.data.dataset import classes_of, training_set, validation_set
from semask.data.folder import find_pairs
from semask.data.hugging_face import Cell
from semask.data.image import probe_image, read_image, read_label
from semask.data.shards import find_shards
from semask.data.source import Source, Unreadable
from semask.recipes.recipe import DataRecipe

CLASSES = '{"classes": ["a", "b", "c"]}'


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6 + number, 9, 3), dtype=np.uint8)


def truth(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 3, (6 + number, 9), dtype=np.uint8)


SPLITS = {"train": (0, 1, 2), "val": (3, 4)}
FILES = {
    "classes.json": CLASSES.encode(),
    **{f"images/{s}/p{n}.png": encoded(picture(n)) for s, ns in SPLITS.items() for n in ns},
    **{f"labels/{s}/p{n}.png": encoded(truth(n)) for s, ns in SPLITS.items() for n in ns},
}


def make_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def unpacked(root: Path) -> DataRecipe:
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return DataRecipe(root=str(root))


def assert_same_samples(data: DataRecipe, files: DataRecipe) -> None:
    """Training draws, with all their chance, and validation pictures are equal to the last bit."""
    small = {"crop": (8, 8), "scale_range": (0.5, 2.0)}
    ours, theirs = (training_set(replace(d, **small), seed=3) for d in (data, files))
    for draw in range(7):
        assert torch.equal(ours[draw].image, theirs[draw].image)
        assert torch.equal(ours[draw].label, theirs[draw].label)
    ours, theirs = validation_set(data), validation_set(files)
    assert len(ours) == len(theirs) == 2
    assert all(torch.equal(ours[i].image, theirs[i].image) for i in range(2))
    assert all(torch.equal(ours[i].label, theirs[i].label) for i in range(2))


# --- zip files ---------------------------------------------------------------------------------------------------


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
    """As Cityscapes comes: pictures in one archive and labels in another, with more beside them."""
    pictures = {f"leftImg8bit/train/ulm/u{n}_leftImg8bit.png": encoded(picture(n)) for n in (0, 1)}
    labels = {f"gtFine/train/ulm/u{n}_gtFine_labelTrainIds.png": encoded(truth(n)) for n in (0, 1)}
    make_zip(tmp_path / "leftImg8bit_trainvaltest.zip", pictures | {"README": b"x", "license.txt": b"x"})
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
    with pytest.raises(ValueError, match=r"no folder .*leftImg8bit_trainvaltest\.zip/leftImg8bit/val\nexpected below"):
        find_pairs(data, "val")


def test_split_files_in_a_zip_file_choose(tmp_path: Path) -> None:
    files = {f"images/p{n}.png": encoded(picture(n)) for n in range(3)}
    files |= {f"labels/p{n}.png": encoded(truth(n)) for n in range(3)}
    lists = {"train.txt": b"p0\np2\n", "val.txt": b"p1\n"}
    data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", files | lists)), images="images", labels="labels")
    assert [pair.stem for pair in find_pairs(data, "train")] == ["p0", "p2"]
    make_zip(tmp_path / "a.zip", files | lists | {"train.txt": "p0\n".encode("utf-16")})
    with pytest.raises(ValueError, match=r"train\.txt: no text in UTF-8"):
        find_pairs(data, "train")


def read_all(pairs: list[tuple[Source, Source]]) -> list[int]:
    return [int(read_image(image).sum()) + int(read_label(label).sum()) for image, label in pairs]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_sources_go_to_processes_that_read_at_once(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", FILES)))
    else:
        make_tar(tmp_path / "train-0.tar", {f"p{n}.{s}": c for n in SPLITS["train"] for s, c in sample(n).items()})
        data = DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar")
    pairs = [(pair.image, pair.label) for pair in find_pairs(data, "train")] * 20
    expected = [int(picture(n).sum()) + int(truth(n).sum()) for n in (0, 1, 2)] * 20
    assert read_all(pickle.loads(pickle.dumps(pairs))) == expected
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        assert list(pool.map(read_all, [pairs] * 3)) == [expected] * 3


def test_a_member_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", FILES)))
    monkeypatch.setattr(zip_file, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"^\S*a\.zip/images/train/p0\.png: \d+ bytes, more than the 100 .*unpack"):
        read_image(find_pairs(data, "train")[0].image)
    assert source_module.MAX_BYTES == 2**28


def test_a_bomb_is_not_unpacked_beyond_what_it_declares(tmp_path: Path) -> None:
    """100 MB of zeros that claim to be 50 bytes; only 51 are ever made."""
    archive = make_zip(tmp_path / "a.zip", {"images/train/p.png": bytes(100_000_000)})
    raw = archive.read_bytes()
    sizes = struct.pack("<L", 100_000_000)
    assert raw.count(sizes) >= 1
    archive.write_bytes(raw.replace(sizes, struct.pack("<L", 50)))
    member = zip_file.open_zip(archive).members["images/train/p.png"]
    assert member.size == 50
    with pytest.raises(Unreadable, match=r"p\.png: its content is not of the size and checksum it declares"):
        member.open("rb")


def message_of(source: Source) -> str:
    try:
        probe_image(source)
    except ValueError as error:
        return str(error)
    return ""


def test_damaged_zip_files_are_told(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    pairs = find_pairs(DataRecipe(root=str(archive)), "train")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:1000] + bytes(200) + whole[1200:])
    told = {str(source): message_of(source) for pair in pairs for source in (pair.image, pair.label)}
    damaged = {name: message for name, message in told.items() if message}
    assert damaged
    assert all(message.startswith(name) and "restore" in message for name, message in damaged.items())
    archive.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"a\.zip: no readable zip file .*fetch it again"):
        find_pairs(DataRecipe(root=str(archive)), "train")
    with pytest.raises(ValueError, match=r"a\.zip.*(damaged|cut short|size and checksum)"):
        read_image(pairs[-1].image)


def test_large_zip_files_and_ones_behind_a_program(tmp_path: Path) -> None:
    """Headers of zip64 are longer, a self-extracting archive begins later, and streams tell sizes after the content."""
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
    members = zip_file.open_zip(tmp_path / "a.zip").members | zip_file.open_zip(tmp_path / "b.zip").members
    read = {name: member.open("rb").read() for name, member in members.items()}
    assert read == {"a/x.bin": b"first" * 1000, "a/y.bin": b"second", "z.bin": b"third" * 1000}


@given(st.sampled_from(["zip", "tar"]), st.integers(0, 2**32), st.integers(1, 5), st.floats(0.3, 1.5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_broken_is_a_value_error(tmp_path: Path, kind: str, seed: int, bytes_hit: int, kept: float) -> None:
    files = {"a/0.png": encoded(truth(0)), "a/1.png": encoded(truth(1))}
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / f"a.{kind}", files)
    random, raw = np.random.default_rng(seed), bytearray(archive.read_bytes())
    for _ in range(bytes_hit):
        raw[random.integers(min(len(raw), 3000))] = random.integers(256)
    archive.write_bytes(raw[: int(kept * len(raw))])
    with contextlib.suppress(ValueError):
        for source in open_download(archive, scratch=tmp_path / "scratch").values():
            read_label(source)


def test_zip_files_that_are_not_read(tmp_path: Path) -> None:
    bzip = make_zip(tmp_path / "b.zip", FILES, method=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"packed by a method .*\(number 12\); unpack"):
        find_pairs(DataRecipe(root=str(bzip)), "train")
    raw = bytearray(make_zip(tmp_path / "c.zip", {"images/train/a.png": b"x"}).read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "c.zip").write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.png is encrypted; unpack"):
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


# --- shards ------------------------------------------------------------------------------------------------------


def sample(number: int) -> dict[str, bytes]:
    return {"png": encoded(picture(number)), "seg.png": encoded(truth(number))}


def test_shards_of_webdataset_are_as_good_as_files(tmp_path: Path) -> None:
    """Written by the library itself, over several shards, with fields that are no pictures."""
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
    files = {"d/0.jpg": encoded(picture(0), "JPEG"), f"d/0.{label}": encoded(truth(0)), "d/0.cls": b"5", ".x": b""}
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
    with pytest.raises(
        ValueError, match=r"1 shards are missing: train-002\.tar of the 'train' split(.|\n)*KEY\.seg\.png"
    ):
        find_shards(tmp_path, "{split}-{000..003}.tar", "train")
    with pytest.raises(ValueError, match=r"no shard of the 'val' split"):
        find_shards(tmp_path, "{split}-*.tar", "val")
    with pytest.raises(ValueError, match=r"data\.images 'images/\{split\}' names no shards"):
        find_shards(tmp_path, "images/{split}", "train")
    with pytest.raises(ValueError, match=r"\{3\.\.1\} is no range"):
        find_shards(tmp_path, "{split}-{3..1}.tar", "train")
    with pytest.raises(ValueError, match="the 'train' split is empty"):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.jpg": b""}, r"sample '0' has \.jpg; expected are one picture .* and one label"),
        ({"0.seg.png": b""}, r"sample '0' has \.seg\.png; expected"),
        ({"0.jpg": b"", "0.webp": b"", "0.seg.png": b""}, "sample '0' has"),
        ({"0.jpg": b"", "0.seg.png": b"", "0.mask.png": b""}, "sample '0' has"),
    ],
)
def test_incomplete_samples_are_told(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    make_tar(tmp_path / "train-0.tar", files)
    with pytest.raises(ValueError, match=message):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


def test_one_key_in_two_shards_is_told(tmp_path: Path) -> None:
    for number in (0, 1):
        make_tar(tmp_path / f"train-{number}.tar", {"a.jpg": b"", "a.seg.png": b""})
    with pytest.raises(ValueError, match=r"two samples have the key 'a': .*train-0\.tar/a\.jpg and one in .*train-1"):
        find_pairs(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "train")


def test_bad_tar_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_tar(tmp_path / "a.tar", {"a.png": encoded(picture(0)), "b.png": bytes(5000)})
    member = tar_file.tar_members(whole)["a.png"]
    (tmp_path / "gz.tar").write_bytes(gzip.compress(whole.read_bytes()))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "none.tar").write_bytes(b"no tar file at all" * 99)
    make_tar(tmp_path / "two.tar", {"a.png": b"1"})
    with tarfile.open(tmp_path / "two.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for name, message in {
        "gz.tar": "packed with gzip .* unpack it once",
        "cut.tar": "cut short at 'b.png'; fetch it again",
        "none.tar": "no readable tar file",
        "two.tar": "two files called 'a.png'",
        "link.tar": "a.png is a link, a device or sparse",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            tar_file.tar_members(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    whole.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(Unreadable, match=r"a\.tar/a\.png: the archive is cut short"):
        member.open("rb")
    monkeypatch.setattr(tar_file, "MAX_BYTES", 10)
    with pytest.raises(Unreadable, match=r"a\.tar/a\.png: \d+ bytes, more than the 10 "):
        member.open("rb")


# --- datasets of Hugging Face ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("image", "label"), ("photo", "annotation")])
def test_a_saved_dataset_is_as_good_as_files(tmp_path: Path, columns: tuple[str, str]) -> None:
    import datasets

    image, label = columns
    features = datasets.Features({"number": datasets.Value("int64"), image: datasets.Image(), label: datasets.Image()})
    datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "number": list(ns),
                    image: [Image.fromarray(picture(n)) for n in ns],
                    label: [Image.fromarray(truth(n)) for n in ns],
                },
                features=features,
            )
            for split, ns in SPLITS.items()
        }
    ).save_to_disk(tmp_path / "hf")
    (tmp_path / "hf/classes.json").write_text(CLASSES)
    data = DataRecipe(kind="hugging_face", root=str(tmp_path / "hf"))
    pairs = find_pairs(data, "train")
    assert [pair.stem for pair in pairs] == ["000000", "000001", "000002"]
    assert str(pairs[1].label).endswith(f"hf/train, row 1, column {label!r}")
    assert_same_samples(data, unpacked(tmp_path / "folder"))
    assert find_pairs(replace(data, image_column=label, label_column=image), "val")[0].image == pickle.loads(
        pickle.dumps(Cell(tmp_path / "hf/val", label, 0))
    )
    with pytest.raises(
        ValueError, match=rf"no column of pictures 'number'; such columns are {image}, {label} .*--data.image"
    ):
        find_pairs(replace(data, image_column="number"), "train")
    with pytest.raises(ValueError, match=r"no dataset in .*hf/test(.|\n)*train/state\.json"):
        find_pairs(data, "test")


def test_bytes_paths_and_neither_in_a_table(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "p.png").write_bytes(encoded(picture(0)))
    table = {"image": [str(tmp_path / "p.png"), "gone.png", None], "mask": [encoded(truth(0)), b"broken", None]}
    kinds = datasets.Features({"image": datasets.Value("string"), "mask": datasets.Value("binary")})
    datasets.Dataset.from_dict(table, features=kinds).save_to_disk(tmp_path / "hf/train")
    first, second, third = find_pairs(DataRecipe(kind="hugging_face", root=str(tmp_path / "hf")), "train")
    assert read_image(first.image).permute(1, 2, 0).numpy().tolist() == picture(0).tolist()
    assert read_label(first.label).tolist() == truth(0).tolist()
    with pytest.raises(ValueError, match=r"row 1, column 'image': names 'gone\.png', which is no file"):
        read_image(second.image)
    with pytest.raises(ValueError, match=r"row 1, column 'mask': no readable image"):
        read_label(second.label)
    with pytest.raises(ValueError, match=r"row 2, column 'image': is empty; save the dataset with its pictures"):
        read_image(third.image)


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/state.json").write_text("{}")
    data = DataRecipe(kind="hugging_face", root=str(tmp_path))
    with pytest.raises(ValueError, match=r"train: no readable dataset .*save it anew"):
        find_pairs(data, "train")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package `datasets`: pip install 'semask\[hf\]'"):
        find_pairs(data, "train")


def test_a_wrong_root_is_told_in_the_storages_own_words(tmp_path: Path) -> None:
    for kind, told in (("shards", "train-000000.tar"), ("hugging_face", "DatasetDict.save_to_disk")):
        with pytest.raises(ValueError, match="is no folder or zip file") as caught:
            find_pairs(DataRecipe(kind=kind, root=str(tmp_path / "gone")), "train")  # type: ignore[arg-type]
        assert told in str(caught.value)
        assert "images/train" not in str(caught.value)
    make_tar(tmp_path / "train-0.tar", {})
    with pytest.raises(ValueError, match=r"tar shards are read by --data\.kind shards; their folder is the root"):
        find_pairs(DataRecipe(root=str(tmp_path / "train-0.tar")), "train")
    make_zip(tmp_path / "a.zip", FILES)
    with pytest.raises(ValueError, match=r"did you mean --data\.root \S+a\.zip\?"):
        find_pairs(DataRecipe(root=str(tmp_path)), "train")
