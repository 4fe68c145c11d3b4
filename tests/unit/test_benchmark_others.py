"""What else a machine did while something was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semask.benchmark import others
from semask.benchmark.others import Others, crowding


def test_others_had_what_all_had_less_what_we_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 5 s all worked 10 s, waiting for disks and guests, which users count, left out; of these 4 were ours."""
    monkeypatch.setattr(others, "STAT", tmp_path / "stat")
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr(others, "_ours", iter([3.0, 7.0]).__next__)
    monkeypatch.setattr("time.perf_counter", iter([1.0, 6.0]).__next__)
    (tmp_path / "stat").write_text("cpu  100 10 20 999 30 4 5 6 7 8\ncpu0 1 2 3\n")
    since = Others()
    (tmp_path / "stat").write_text("cpu  700 110 220 5999 3330 24 35 56 7777 8888\ncpu0 1 2 3\n")
    assert since.cores() == pytest.approx((6 + 1 + 2 + 0.2 + 0.3 + 0.5 - 4) / 5)


@pytest.mark.parametrize("text", [None, "", "cpu a b", "cpu 1 2"])
def test_where_the_system_does_not_tell(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert Others().cores() is None


QUIET = {"others": 0.2, "threads": 2, "cores": 2, "cuda": None}


@pytest.mark.parametrize(
    ("change", "crowded"),
    [
        ({}, False),
        ({"others": 0.9}, True),
        ({"others": 0.9, "threads": 1}, False),
        ({"others": 1.6, "threads": 1}, True),
        ({"others": 0.9, "cores": 16}, False),
        ({"others": 0.9, "cuda": "12.6"}, False),
        ({"others": None}, False),
    ],
)
def test_a_crowd_is_told(change: dict[str, Any], crowded: bool) -> None:
    told = crowding(QUIET | change)
    assert (told is not None) == crowded
    if told is not None:
        assert f"Other processes had {(QUIET | change)['others']} of 2 cores" in told
    assert crowding({}) is None, "records that were written before"
