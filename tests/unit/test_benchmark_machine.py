"""What else a machine did while something was measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semask.benchmark import machine
from semask.benchmark.machine import MachineLoad, crowding


def test_others_had_what_all_had_less_what_we_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 5 s all worked 10 s, waiting for disks and guests, which users count, left out; of these 4 were ours."""
    monkeypatch.setattr(machine, "STAT", tmp_path / "stat")
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr(machine, "own_seconds", iter([3.0, 7.0]).__next__)
    monkeypatch.setattr("time.perf_counter", iter([1.0, 6.0]).__next__)
    (tmp_path / "stat").write_text("cpu  100 10 20 999 30 4 5 6 7 8\ncpu0 1 2 3\n")
    since = MachineLoad()
    (tmp_path / "stat").write_text("cpu  700 110 220 5999 3330 24 35 56 7777 8888\ncpu0 1 2 3\n")
    assert since.cores() == pytest.approx((6 + 1 + 2 + 0.2 + 0.3 + 0.5 - 4) / 5)


@pytest.mark.parametrize("text", [None, "", "cpu a b", "cpu 1 2"])
def test_where_the_system_does_not_tell(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert MachineLoad().cores() is None


def test_processes_that_are_ours_are_no_others() -> None:
    """A child's child that lives, with time of its own; one more clock tick may pass while it is read."""
    spin = "import os, time\nwhile sum(os.times()[:2]) < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])"
    before = machine.own_seconds()
    with subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = machine.own_seconds()
        os.killpg(child.pid, signal.SIGKILL)
    assert found - before >= 0.29


QUIET = {"machine_load": 0.2, "threads": 2, "cores": 2, "cuda": None}


@pytest.mark.parametrize(
    ("change", "entry", "told"),
    [
        ({}, {}, None),
        ({"machine_load": 0.9}, {}, "had 0.9 of 2 cores while 2 were wanted"),
        ({"machine_load": 0.9}, {}, "when the machine is quiet, or with --threads 1."),
        ({"machine_load": 0.9, "threads": 1}, {}, None),
        ({"machine_load": 1.6, "threads": 1}, {}, "when the machine is quiet."),
        ({"machine_load": 0.9, "cores": 16}, {}, None),
        ({"machine_load": 0.9, "cuda": "12.6"}, {}, None),
        ({"machine_load": None}, {}, None),
        ({"machine_load": 0.9}, {"what": "load", "workers": 1}, None),
        ({}, {"what": "load", "workers": 2}, None),
        ({"machine_load": 0.9}, {"what": "load", "workers": 2}, "while 2 were wanted"),
        ({}, {"what": "evaluate", "workers": 1}, "while 3 were wanted"),
    ],
)
def test_a_crowd_is_told(change: dict[str, Any], entry: dict[str, Any], told: str | None) -> None:
    found = crowding(QUIET | change, entry)
    assert found is None if told is None else told in str(found)


def test_records_that_were_written_before_tell_no_crowd() -> None:
    assert crowding({}, {}) is None
