"""Programs of torch.export that this user exported on this machine: loading one can run any code that is in it.

PyTorch unpickles parts of a program and evaluates its expressions of sizes, so that no check of the file makes it safe.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from semask.data.checks.cache import cache_folder

FILE = "trusted-programs.txt"
"""SHA-256 of programs in the cache folder, a line each, as `sha256sum` prints them."""


def trust(program: Path) -> None:
    """Note a program that was exported here."""
    listed = cache_folder() / FILE
    listed.parent.mkdir(parents=True, exist_ok=True)
    with listed.open("a", encoding="utf-8") as file:
        file.write(f"{hashlib.sha256(program.read_bytes()).hexdigest()}  {program.name}\n")


def read_trusted(program: Path) -> bytes:
    """The bytes of a program that was exported here.

    Raises:
        ValueError: It was not.
    """
    listed, content = cache_folder() / FILE, program.read_bytes()
    lines: list[str] = []
    with suppress(FileNotFoundError):
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    if hashlib.sha256(content).hexdigest() not in {line.partition(" ")[0] for line in lines}:
        raise ValueError(
            f"{str(program)!r} was not exported by this user on this machine, and programs of torch.export can run any "
            "code when they are loaded; use a file of --format onnx or openvino, or, if you trust this one, run "
            f"sha256sum '{program}' >> '{listed}'"
        )
    return content
