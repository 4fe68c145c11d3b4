"""Broken and hostile archives: tensors or a ValueError; no crash, no hang, and nothing written beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = int(os.environ.get("SEMASK_FUZZ", "200"))


@pytest.mark.timeout(max(600, COUNT))
def test_broken_archives_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.fuzz.archives", str(COUNT), os.environ.get("SEMASK_FUZZ_SEED", "0")]
    ended = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith("[")] == []
    assert ended.returncode == 0, (lines[-1:], ended.stderr[-1000:])
    assert lines == [str(number) for number in range(COUNT)]
    left = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*")}
    assert left <= {("a",), ("a", "b"), ("a", "b", "classes.json"), ("a", "b", "scratch")}
