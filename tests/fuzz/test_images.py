"""Broken image files: every reader gives a tensor or a ValueError, and nothing ends the process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from tests.fuzz.mutate import main

COUNT = int(os.environ.get("SEMASK_FUZZ", "150"))
"""Files of a format; `make fuzz` reads 10,000."""


def read_files(kind: str, log: Path) -> None:
    warnings.simplefilter("default")  # errors in tests
    with log.open("w") as out, contextlib.redirect_stdout(out):
        main(kind, COUNT, int(os.environ.get("SEMASK_FUZZ_SEED", "0")))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "bmp"])
def test_broken_files_are_refused(kind: str, tmp_path: Path) -> None:
    """In a process of its own, which a file may end; forked, since importing torch takes longer than the files."""
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=read_files, args=(kind, log))
    process.start()
    process.join()
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("[")] == []
    assert process.exitcode == 0, lines[-1:]
    assert lines == [str(number) for number in range(COUNT)]
