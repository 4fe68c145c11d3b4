"""What lies below a root is found, behind links too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semask.data.published.download import open_download
from semask.data.readers.source import is_hidden
from semask.data.readers.tree import Tree, paths_below
from semask.inference.sources import find_items
from tests.facts import missing
from tests.unit.stored import make_tar, make_zip


def find_paths(folder: Path) -> list[Path]:
    return [item.source for item in find_items([folder])[0]]


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_folders_behind_links_are_searched(tmp_path: Path) -> None:
    """As on machines where a part of a data set lies on another disk: none of it may be missing without a word."""
    own, other = made(tmp_path / "root/train/ulm/a.png"), made(tmp_path / "disk/bonn/deep/b.png")
    os.symlink(tmp_path / "disk/bonn", tmp_path / "root/train/bonn")
    os.symlink(tmp_path / "disk/nothing", tmp_path / "root/train/gone")
    os.symlink(other, tmp_path / "root/train/c.png")
    expected = ["bonn/deep/b.png", "c.png", "ulm/a.png"]
    assert list(Tree(tmp_path / "root").files("train")) == expected
    found = open_download(tmp_path / "root/train", scratch=tmp_path / "s")
    assert sorted(found) == [f"train/{path}" for path in expected]
    root = tmp_path / "root/train"
    for_predict = [p.relative_to(root).as_posix() for p in find_paths(root)]
    assert for_predict == sorted([*expected, "gone"]), "a lost image is a failure there"
    assert paths_below(own.parent) == [own]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    file = made(tmp_path / "a/b/c.png")
    for name, target in (("a/b/up", "a"), ("a/b/same", "a/b"), ("a/top", ".")):
        os.symlink(tmp_path / target, tmp_path / name)
    assert paths_below(tmp_path) == [file]


@pytest.mark.parametrize("shape", ["two links to the parent", "two links to the next level", "all to all"])
def test_many_links_do_not_multiply_files(tmp_path: Path, shape: str, caplog: pytest.LogCaptureFixture) -> None:
    """30 levels of two links each are 2³⁰ paths to as many files as there are."""
    levels = [tmp_path / f"d{number:02}" for number in range(30)]
    files = [made(level / "image.png") for level in levels]
    for number, level in enumerate(levels):
        targets = {"two links to the parent": [tmp_path] * 2, "all to all": levels}
        for index, target in enumerate(targets.get(shape, [levels[(number + 1) % 30]] * 2)):
            os.symlink(target, level / f"link{index}")
    assert paths_below(tmp_path) == find_paths(tmp_path) == files
    assert bool(caplog.messages) == (shape != "two links to the parent")
    # from one folder alone, others are found through the first link that leads there
    below = paths_below(levels[0])
    assert len({path.resolve() for path in below}) == len(below)
    assert len(below) == {"two links to the parent": 1, "two links to the next level": 30, "all to all": 30}[shape]


def test_links_that_lead_nowhere_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = made(tmp_path / "root/a.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "root/b.png")
    os.symlink("c.png", tmp_path / "root/c.png")
    os.symlink("e.png", tmp_path / "root/d.png")
    os.symlink("d.png", tmp_path / "root/e.png")
    os.mkfifo(tmp_path / "root/pipe.png")
    lost = [tmp_path / f"root/{name}.png" for name in "bcde"]
    assert paths_below(tmp_path / "root") == list(Tree(tmp_path).files("root").values()) == [file]
    assert paths_below(tmp_path / "root", broken=True) == [file, *lost]
    assert len(caplog.messages) == 1, "once, however often the folder is searched"
    assert missing(caplog.text, 4, *lost[:3]) == []


HIDDEN = (
    *(".ipynb_checkpoints/a-checkpoint.png", ".Trash-1000/files/a.png", "x/.git/a.png", "._a.png", ".DS_Store"),
    *("@eaDir/a.png/thumb.png", "__MACOSX/x/a.png", "$RECYCLE.BIN/S-1/a.png", "$Recycle.Bin/a.png", "x/#recycle/a.png"),
    *("System Volume Information/a.png", "lost+found/a.png", "x/Thumbs.db", "x/desktop.ini", "x/Desktop.ini"),
)
DATA = ("a.png", "x/b.png", "x/c.d/e.png", "eaDir/a.png", "x/thumbs.png", "MACOSX/a.png", "lost/found.png", "a..png")


def test_one_rule_for_hidden_files(tmp_path: Path) -> None:
    """In folders, zip and tar files, for training, predictions and downloads; a root itself may be hidden."""
    assert [path for path in HIDDEN if not is_hidden(path)] == []
    assert [path for path in DATA if is_hidden(path)] == []
    root = tmp_path / ".cache/@eaDir/root"
    for path in (*HIDDEN, *DATA):
        made(root / "train" / path)
    packed = {f"top/train/{path}": b"" for path in (*HIDDEN, *DATA)} | {"__MACOSX/top/train/._a.png": b""}
    archive, tar = make_zip(tmp_path / "a.zip", packed), make_tar(tmp_path / "a.tar", packed)
    expected = sorted(DATA)
    assert sorted(Tree(root).files("train")) == expected
    assert sorted(Tree(archive).files("train")) == expected
    train = root / "train"
    assert sorted(path.relative_to(train).as_posix() for path in find_paths(train)) == expected
    for download in (root / "train", archive, tar):
        found = open_download(download, scratch=tmp_path / "s")
        assert sorted(path.partition("train/")[2] for path in found) == expected
