"""Broken image files: every reader gives a tensor or a ValueError, and nothing ends the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = int(os.environ.get("SEMASK_FUZZ", "150"))
"""Files of a format; `make fuzz` reads 10,000."""


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "bmp"])
def test_broken_files_are_refused(kind: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.mutate", kind, str(COUNT), os.environ.get("SEMASK_FUZZ_SEED", "0")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith("[")] == []
    assert ended.returncode == 0, (lines[-1:], ended.stderr[-1000:])
    assert lines == [str(number) for number in range(COUNT)]
