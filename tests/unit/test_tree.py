"""What lies below a root is found, behind links too."""

from __future__ import annotations

import os
from pathlib import Path

from semask.cli.predict import find_files
from semask.data.published.download import open_download
from semask.data.readers.tree import Tree, paths_below


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
    assert [p.relative_to(root).as_posix() for p in find_files(root, leave_out=tmp_path / "out")] == expected
    assert paths_below(own.parent) == [own]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    file = made(tmp_path / "a/b/c.png")
    for name, target in (("a/b/up", "a"), ("a/b/same", "a/b"), ("a/top", ".")):
        os.symlink(tmp_path / target, tmp_path / name)
    assert paths_below(tmp_path) == [file]
