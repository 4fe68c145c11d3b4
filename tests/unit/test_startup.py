"""What commands import: the package nothing heavy (help: test_cli.py), and a label map only what makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from semask import build
from semask.checkpoints import store

HEAVY = ("torch", "numpy", "PIL", "timm", "torchvision", "matplotlib", "scipy", "lightning", "jinja2", "transformers")
NEEDLESS = (
    "lightning",
    "matplotlib",
    "scipy",
    "torchmetrics",
    "tensorboard",
    "transformers",
    "datasets",
    "jinja2",
    "semask.training",
    "semask.evaluation",
    "semask.evaluation.metrics",
)
"""What a label map is made without."""


def imported(code: str, modules: tuple[str, ...]) -> list[str]:
    """Return which of the modules a process has imported after some code."""
    code = f"{code}\nimport json, sys; print(json.dumps([name for name in {modules!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_package_imports_nothing_heavy() -> None:
    assert imported("import semask", (*HEAVY, "tyro", "rich")) == []
    assert imported("import semask; semask.Recipe", HEAVY) == []


def test_a_label_map_needs_neither_training_nor_plots(tmp_path: Path) -> None:
    name = "scenes/semask-micro-fpn"
    store.save(build(name), tmp_path / "run")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ["predict", str(tmp_path / "run"), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert imported(f"from semask.cli.main import main; assert main({arguments!r}) == 0", NEEDLESS) == []
    assert (tmp_path / "out" / "predictions" / "a.png").is_file()
