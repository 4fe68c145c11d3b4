from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semask.checkpoints import store
from semask.data.dataset import validation_set
from semask.inference import build_predictor
from semask.metrics import Confusion
from semask.training.history import read_history

TINY = {
    "--model.encoder.embed-dim": "16",
    "--model.encoder.depths": "1 1 1 1",
    "--model.decoder.channels": "16",
    "--data.crop": "32 32",
    "--data.scene-size": "32 32",
    "--data.scene-count": "5",
    "--optim.warmup-steps": "2",
    "--train.steps": "4",
    "--train.batch-size": "4",
    "--train.eval-every": "2",
    "--test.batch-size": "1",
    "--accelerator": "cpu",
    "--strategy": "ddp",
    "--workers": "0",
}


def test_two_processes_train_and_count_like_one(tmp_path: Path) -> None:
    """Five validation pictures do not divide by two: nothing may count twice, and no process may wait forever."""
    flags = [word for flag, values in TINY.items() for word in (flag, *values.split())]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "semask.cli", "train", "scenes/semask-micro-fpn", *flags, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    model, recipe, _ = store.load(tmp_path / "run" / "last")
    predict = build_predictor(model, recipe.test, recipe.data)
    alone = Confusion(recipe.model.num_classes)
    with torch.inference_mode():
        for sample in validation_set(recipe.data):
            alone.update(predict(sample.image[None]).argmax(1)[0], sample.label)
    scores, history = alone.scores(), read_history(tmp_path / "run")
    assert int(scores.pixels.sum()) == 5 * 32 * 32
    # Logged as float32; one picture counted twice, or not at all, would change these by far more.
    logged = [history[f"val/{name}"][-1][1] for name in ("mIoU", "mAcc", "aAcc")]
    assert logged == pytest.approx([scores.miou, scores.macc, scores.aacc], rel=1e-6)

    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    (states,) = [state["ranks"] for name, state in saved["callbacks"].items() if name.startswith("RandomStates")]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    assert [step for step, _ in history["train/loss"]] == [0, 1, 2, 3]
    assert done.stdout.count("best mIoU") == 1
