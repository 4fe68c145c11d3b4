"""Preparing goes on where it ended, counts, and reports what is wrong; nothing is left half-made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from semask.cli import prepare as command
from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.data.published.catalogue import DATASETS
from semask.data.published.official import Official
from semask.data.published.prepare import Prepared, prepare
from semask.data.readers.image import read_label
from tests.facts import facts, missing
from tests.unit.downloads import SIZE, encoded, make_zip, mat, photo

# --- resuming, counting, refusing ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> tuple[Official, Path]:
    """CamVid of three training images and one for validation."""
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


def test_what_was_spoilt_since_is_made_again(small: tuple[Official, Path], tmp_path: Path) -> None:
    """An empty image, a label of other values and one cut short: the archive has them whole."""
    official, download = small
    root = tmp_path / "out"
    prepare(official, [download], root)
    spoilt = [root / "images/train/0.png", root / "labels/train/1.png", root / "labels/train/2.png"]
    whole = [path.read_bytes() for path in spoilt]
    spoilt[0].write_bytes(b"")
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(spoilt[1])
    spoilt[2].write_bytes(whole[2][:40])
    assert prepare(official, [download], root) == Prepared({"train": 3, "val": 1}, 3, 5)
    assert [path.read_bytes() for path in spoilt] == whole


def test_a_download_of_something_else_is_no_part(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, _ = small
    download = make_zip(tmp_path / "images.zip", {f"c/train/{n}.png": photo(n, "PNG") for n in range(3)})
    with pytest.raises(ValueError, match=facts("CamVid", download, "train", 3, 0, "--partial")):
        prepare(official, [download], tmp_path / "out", partial=True)
    assert not (tmp_path / "out").exists()


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
    with pytest.raises(ValueError, match=facts("CamVid", download, "train", 3, 4, "CamVid.zip")):
        prepare(larger, [download], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is begun"
    assert prepare(larger, [download], tmp_path / "out", partial=True).images == {"train": 3, "val": 1}
    assert missing(caplog.text, "WARNING", "train", 3, 4) == []
    with pytest.raises(ValueError, match=facts("'0'", f"{download}/c/train/0.png")):
        prepare(official, [download, download], tmp_path / "out")


def test_images_without_labels_are_left_out_of_a_part(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, _ = small
    files = {"c/train/1.png": photo(1, "PNG"), "c/train/2.png": photo(2, "PNG")}
    download = make_zip(tmp_path / "part.zip", files | {"c/trainannot/1.png": encoded(np.zeros(SIZE, np.uint8))})
    assert prepare(official, [download], tmp_path / "out", partial=True) == Prepared({"train": 1}, 2, 0)
    only = make_zip(tmp_path / "labels.zip", {"c/trainannot/1.png": b""})
    with pytest.raises(ValueError, match=facts("train", only, 0, 1, 3)):
        prepare(official, [only], tmp_path / "none", partial=True)


def test_bad_labels_are_reported_together(small: tuple[Official, Path], tmp_path: Path) -> None:
    official, _ = small
    files = {f"c/train/{n}.png": photo(n, "PNG") for n in range(3)}
    labels = {f"c/trainannot/{n}.png": encoded(np.full(SIZE, v, np.uint8)) for n, v in enumerate((12, 3, 200))}
    labels["c/trainannot/0.png"] = encoded(np.array([[12, 255]], np.uint8))
    labels["c/trainannot/1.png"] = photo(0)
    download = make_zip(tmp_path / "bad.zip", files | labels)
    with pytest.raises(ValueError, match=facts(3)) as caught:
        prepare(official, [download], tmp_path / "out", partial=True)
    _, *lines = str(caught.value).splitlines()
    for number, (line, fact) in enumerate(zip(lines, ([12, 255], "JPEG", [200]), strict=True)):
        assert missing(line, f"trainannot/{number}.png", fact) == []
    assert len(list((tmp_path / "out/images/train").iterdir())) == 3


def test_too_little_space_is_reported_before(
    small: tuple[Official, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official, download = small
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=facts("0.0 GiB", tmp_path / "out")):
        prepare(official, [download], tmp_path / "out")


def test_what_is_no_mat_file_is_reported(tmp_path: Path) -> None:
    files = {"images/1.jpg": photo(), "imageLists/train.txt": b"1"}
    for content, wanted in (
        (b"broken", ("1.mat", "S", "MATLAB")),
        (mat(T=np.zeros((2, 2))), ("1.mat", "'S'")),
        (mat(S=np.zeros((2, 2))), ("1.mat", "S", "float64")),
        (mat(S=np.full((2, 2), 183, np.uint8)), (183, 0, 182)),
    ):
        download = make_zip(tmp_path / "coco.zip", files | {"annotations/1.mat": content})
        with pytest.raises(ValueError, match=facts(1, *wanted)):
            prepare(DATASETS["coco-stuff10k"], [download], tmp_path / "out", partial=True)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_offers_what_there_is() -> None:
    assert get_args(command.Name) == tuple(DATASETS)
    for official in DATASETS.values():
        assert {official.data.train_split, official.data.val_split} & official.counts.keys()
        assert Classes.load(str(official.data.classes))


def test_the_command_tells_what_it_made(ade20k_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "ade"), "--partial"])
    message = capsys.readouterr().out
    assert missing(message, 10, 20210, "training", 2000, "validation", 40, 0, f"--data.root {tmp_path / 'ade'}") == []
    with pytest.raises(ValueError, match=facts("training", 10, 20210, "ADEChallengeData2016.zip")):
        command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match=facts("'/nowhere/a.zip'")):
        command.main(["ade20k", "--from", "/nowhere/a.zip", "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match=facts("--from ADEChallengeData2016.zip")):
        command.main(["ade20k", "--from", "--root", str(tmp_path / "all")])
    with pytest.raises(ValueError, match=facts("--workers", 1, 0)):
        command.main(["ade20k", "--from", str(ade20k_mini), "--root", str(tmp_path / "all"), "--workers", "0"])


def test_a_wrong_root_names_the_right_one_and_the_way_there(ade20k_mini: Path) -> None:
    data = replace(DATASETS["ade20k"].data, root=str(ade20k_mini.parent))
    with pytest.raises(ValueError, match=facts(f"--data.root {ade20k_mini}", "semask prepare ade20k --from DOWNLOAD")):
        find_pairs(data, "training")
