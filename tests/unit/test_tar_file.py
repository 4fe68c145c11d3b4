"""Tar files that are broken, packed or unsafe are reported."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from semask.data.readers import archives
from semask.data.readers.source import Unreadable
from tests.facts import facts
from tests.unit.stored import encoded, make_tar, random_image


def test_bad_tar_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_tar(tmp_path / "a.tar", {"a.png": encoded(random_image(0)), "b.png": bytes(5000)})
    member = archives.tar_members(whole)["a.png"]
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
    for name, wanted in {
        "gz.tar": "gzip",
        "cut.tar": "'b.png'",
        "none.tar": "none.tar",
        "two.tar": "'a.png'",
        "link.tar": "a.png",
    }.items():
        with pytest.raises(ValueError, match=facts(tmp_path / name, wanted)):
            archives.tar_members(tmp_path / name)
    whole.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(Unreadable, match=facts(f"{tmp_path}/a.tar/a.png")):
        member.open("rb")
    monkeypatch.setattr(archives, "MAX_BYTES", 10)
    with pytest.raises(Unreadable, match=facts(f"{tmp_path}/a.tar/a.png", member.size, 10)):
        member.open("rb")
