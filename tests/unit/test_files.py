from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semask.files import atomic_folder, atomic_write, check_writable


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    with atomic_write(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_name_is_on_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename survives a power cut only once the folder itself is written."""
    synced: list[tuple[int, list[str]]] = []
    fsync = os.fsync

    def note(number: int) -> None:
        state = os.fstat(number)
        if stat.S_ISDIR(state.st_mode):
            synced.append((state.st_ino, sorted(path.name for path in tmp_path.iterdir())))
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    with atomic_write(tmp_path / "a.json") as part:
        part.write_text("whole")
    with atomic_folder(tmp_path / "b") as part:
        part.mkdir()
    assert synced == [(tmp_path.stat().st_ino, names) for names in (["a.json"], ["a.json", "b"])]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_results_can_go_to_is_not_made_yet(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep" / "deeper")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_of_results_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link to no file").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file that is its own link").symlink_to(tmp_path / "file that is its own link")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(ValueError, match=r"^--plot: .*/file(/deep)?'"):
            check_writable(folder, flag="--plot")
    with pytest.raises(ValueError, match=r"^--out: .*'/proc'"):
        check_writable(Path("/proc/nowhere"))
    for name in ("link to no file", "file that is its own link"):
        for folder in (tmp_path / name, tmp_path / name / "deep"):
            with pytest.raises(ValueError, match=rf"^--out: .*/{name}'"):
                check_writable(folder)


def test_of_several_writers_one_wins_and_its_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    texts = [letter * 2**20 for letter in "abcdefgh"]

    def write(text: str) -> None:
        for _ in range(3):
            with atomic_write(path) as part:
                part.write_text(text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with atomic_write(path) as part:
        part.write_text("whole")
    assert path.read_text() == "whole"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    names = (".7-0123456789ab.tmp", "best/.123-abcdefabcdef.tmp", ".notes.tmp", "a.tmp", ".7-0123456789ab.json")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".8-0123456789ab.tmp").write_bytes(b"being written")
    check_writable(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".8-0123456789ab.tmp", *names[2:]}
