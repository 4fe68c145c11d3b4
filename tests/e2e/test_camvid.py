"""Real photographs through the real command line: a short training, its score and its pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEPS = 20
CLASSES = 11


def semask(*arguments: str | Path, place: Path) -> str:
    command = [str(Path(sys.executable).parent / "semask"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def count_labelled(folder: Path) -> np.ndarray:
    """Return the pixels of every class; what is no class is not labelled."""
    ids = [np.asarray(Image.open(path)).ravel() for path in sorted(folder.glob("*.png"))]
    return np.bincount(np.concatenate(ids), minlength=256)[:CLASSES]


@pytest.mark.slow
def test_train_evaluate_and_predict_street_scenes(camvid: Path, lite0_weights: Path, tmp_path: Path) -> None:
    steps = ["--train.steps", str(STEPS), "--train.eval-every", str(STEPS), "--optim.warmup-steps", "2"]
    # An average over hundreds of steps would still be near the start; so few steps must be long.
    steps += ["--train.ema", "None", "--optim.lr", "6e-3"]
    files = ["--data.root", camvid, "--model.encoder.weights", lite0_weights, "--out", "run"]
    semask("train", "camvid/semask-lite0-fpn-small", *steps, *files, place=tmp_path)
    run = tmp_path / "run"
    for name in ("last.ckpt", "best/model.safetensors", "best/recipe.json", "last/model.safetensors"):
        assert (run / name).stat().st_size > 0, name

    told = semask("evaluate", "run/best", place=tmp_path)
    record = json.loads((run / "best" / "metrics.json").read_text())
    assert record["images"] == len(list((camvid / "images/val").iterdir())) == 101
    assert record["scores"]["miou"] > 0.05
    assert f"mIoU {100 * record['scores']['miou']:.2f}" in told
    counted = [row["pixels"] for row in record["scores"]["classes"]]
    assert counted == count_labelled(camvid / "labels/val").tolist()

    (tmp_path / "photographs").mkdir()
    photographs = sorted((camvid / "images/val").iterdir())[:2]
    for photograph in photographs:
        (tmp_path / "photographs" / photograph.name).symlink_to(photograph)
    semask("predict", "run/best", "photographs", "--out", "segmented", place=tmp_path)
    for photograph in photographs:
        with (
            Image.open(photograph) as picture,
            Image.open(tmp_path / "segmented" / "predictions" / f"{photograph.stem}.png") as ids,
        ):
            assert ids.size == picture.size == (480, 360)
            assert ids.mode == "P"
            assert int(np.asarray(ids).max()) < CLASSES
        with Image.open(tmp_path / "segmented" / "overlays" / f"{photograph.stem}.jpg") as overlay:
            assert overlay.size == (480, 360)
    assert len(list((tmp_path / "segmented" / "predictions").iterdir())) == len(photographs)
