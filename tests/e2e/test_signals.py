"""Signals to the real command and to its loading processes: one clean line, its exit status, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.cli.main import main
from semask.data.loader import deferred_interrupt
from tests.facts import missing

if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
    pytest.skip("no list of child processes on this system", allow_module_level=True)

TINY = "--train.eval-every 9000 --logger csv --train.batch-size 2 --data.crop 32 32 --model.encoder.embed-dim 16"
SCENES = "scenes/micro-fpn --train.steps 9000 --workers 2 --data.scene-size 32 32 --data.scene-count 8"


def loaders(pid: int) -> list[int]:
    """Child processes that run the same command."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"semask" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def run_and_signal(out: Path, count: int, send: Callable[[int], None]) -> tuple[int, str]:
    """Train until `count` loading processes live, send signals to the run, and return its status and its words."""
    run = subprocess.Popen(
        [sys.executable, "-m", "semask.cli.main", "train", *SCENES.split(), *TINY.split(), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while run.poll() is None and len(loaders(run.pid)) < count:
        time.sleep(0.002)
    send(run.pid)
    try:
        said, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert "Traceback" not in said
    return run.returncode, said


def after_a_while(pid: int, number: signal.Signals) -> None:
    time.sleep(2)
    os.killpg(pid, number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_saves_the_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """As `systemctl stop`, a batch system or a terminal sends it."""
    assert run_and_signal(tmp_path, 2, lambda pid: after_a_while(pid, number))[0] == status
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.parametrize("delay", [0, 0.02])
def test_an_interrupt_while_processes_start_is_not_lost(tmp_path: Path, delay: float) -> None:
    assert run_and_signal(tmp_path, 1, lambda pid: (time.sleep(delay), os.kill(pid, signal.SIGINT))[1])[0] == 130


def test_a_killed_loading_process_ends_the_run_with_a_fix(tmp_path: Path) -> None:
    status, said = run_and_signal(tmp_path, 2, lambda pid: os.kill(loaders(pid)[0], signal.SIGKILL))
    assert (status, missing(said, "--workers 0")) == (1, [])


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("cause", ["values", "broken"])
def test_broken_labels_in_loading_processes_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, cause: str
) -> None:
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for number in range(2):
            name = f"{split}/{number}.png"
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "data" / "images" / name)
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "data" / "labels" / name)
    (tmp_path / "data" / "classes.json").write_text('{"classes": ["a", "b"]}')
    given = ["--data.root", str(tmp_path / "data"), "--workers", "1", "--skip-check"]
    files = ["--data.kind", "files", "--model.num-classes", "2", "--train.steps", "1"]
    train = ["train", "scenes/micro-fpn", *TINY.split(), *files, *given, "--out", str(tmp_path / "run")]
    if command == "evaluate":
        assert main(train) == 0
    label = tmp_path / "data" / "labels" / ("train" if command == "train" else "val") / "1.png"
    if cause == "values":
        Image.fromarray(np.full((32, 32), 7, np.uint8)).save(label)
    else:
        label.write_bytes(label.read_bytes()[:45])
    capfd.readouterr()
    assert main(train if command == "train" else ["evaluate", str(tmp_path / "run" / "best"), *given, "true"]) == 2
    said = capfd.readouterr().err
    assert ("Traceback" in said, missing(said.replace("\n", ""), label)) == (False, [])


def test_an_interrupt_is_deferred_and_not_discarded() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), deferred_interrupt():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            done.append("after the signal")
        assert (done, signal.getsignal(signal.SIGINT)) == (["after the signal"], signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, before)
