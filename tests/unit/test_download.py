"""Downloads are opened without trust, and those that are packed once for each version of them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from semask.data.published import download as download_module
from semask.data.published.download import open_download
from tests.facts import facts
from tests.unit.downloads import make_tar, make_zip


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    download = make(tmp_path / f"a.{kind}", {"c/train/1.png": b"", name: b""})
    with pytest.raises(ValueError, match=facts(str(download), repr(name))):
        open_download(download, scratch=tmp_path / "scratch")


def test_links_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("c/train/1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=facts(f"{tmp_path}/link.zip/c/train/1.png")):
        open_download(tmp_path / "link.zip", scratch=tmp_path)
    monkeypatch.setattr(download_module, "CHUNK", 1000)
    zeros = {"c/train/1.png": bytes(1_000_000)}
    with pytest.raises(ValueError, match=facts("bomb.zip", 1000000, 200)):
        open_download(make_zip(tmp_path / "bomb.zip", zeros), scratch=tmp_path)
    with pytest.raises(ValueError, match=facts("bomb.tgz", 200)):
        open_download(make_tar(tmp_path / "bomb.tgz", zeros, "w:gz"), scratch=tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_packed_tar_files_are_opened_and_cut_ones_reported(tmp_path: Path, mode: str) -> None:
    content = np.random.default_rng(0).integers(0, 16, 9000, dtype=np.uint8).tobytes()
    download = make_tar(tmp_path / "a.tar.any", {"a/b.png": content}, mode)
    with open_download(download, scratch=tmp_path / "s")["a/b.png"].open("rb") as file:
        assert file.read() == content
    shutil.rmtree(tmp_path / "s")
    whole = download.read_bytes()
    for damaged in (whole[:2000], whole[:300] + bytes(90) + whole[390:]):
        download.write_bytes(damaged)
        with pytest.raises(ValueError, match=facts("a.tar.any")):
            open_download(download, scratch=tmp_path / "s")
    download.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ValueError, match=facts("a.tar.any", "zstd")):
        open_download(download, scratch=tmp_path / "s")


def test_a_download_of_the_same_name_is_another_one(tmp_path: Path) -> None:
    """Fetched again after an attempt that failed, or in another folder: never the content of the first is read."""

    def content(path: Path) -> bytes:
        with open_download(path, scratch=tmp_path / "s")["a/b.txt"].open("rb") as file:
            return file.read()

    (tmp_path / "other").mkdir()
    first = make_tar(tmp_path / "a.tgz", {"a/b.txt": b"first"}, "w:gz")
    assert content(first) == b"first"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    assert content(first) == b"first"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()} == made, "unpacked once"
    assert content(make_tar(tmp_path / "other/a.tgz", {"a/b.txt": b"other"}, "w:gz")) == b"other"
    assert content(make_tar(tmp_path / "a.tgz", {"a/b.txt": b"again, longer"}, "w:gz")) == b"again, longer"
