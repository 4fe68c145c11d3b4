from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.checkpoints import store
from semask.data.dataset import training_set, validation_set
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.evaluation.metrics import Confusion
from semask.inference import build_predictor
from semask.structures import IGNORE
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


MASKS = {
    "--model.decoder.channels": "64",
    "--model.decoder.queries": "8",
    "--model.decoder.layers": "1",
    "--model.decoder.feedforward": "16",
    "--model.decoder.pixel-layers": "1",
    "--model.decoder.pixel-feedforward": "16",
    "--loss.masks.points": "64",
}


def two_processes_train(recipe: str, flags: dict[str, str], out: Path) -> subprocess.CompletedProcess[str]:
    words = [word for flag, values in flags.items() for word in (flag, *values.split())]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "semask.cli.main", "train", recipe, *words, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_train_and_count_like_one(tmp_path: Path) -> None:
    """Five validation pictures do not divide by two: nothing may count twice, and no process may wait forever."""
    done = two_processes_train("scenes/semask-micro-fpn", TINY, tmp_path / "run")

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


@pytest.mark.slow
def test_a_process_without_any_label_keeps_up(tmp_path: Path) -> None:
    """One picture per process and step, some unlabelled: whoever has nothing to match still joins every sum."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(6):
            image, label = draw_scene(number, (32, 32))
            unlabelled = split == "train" and number % 2 == 0
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray(np.full_like(label, IGNORE) if unlabelled else label).save(
                root / "labels" / split / f"{number}.png"
            )
    (root / "classes.json").write_text(json.dumps(SCENE_CLASSES.to_dict()))
    here = {"--data.kind": "files", "--data.root": str(root), "--train.batch-size": "2", "--skip-check": ""}
    two_processes_train("scenes/semask-micro-mask2former", TINY | MASKS | here, tmp_path / "run")

    recipe = store.load(tmp_path / "run" / "last").recipe
    draws = training_set(recipe.data, seed=recipe.train.seed, mean=recipe.model.mean)
    labelled = [bool((draws[draw].label != IGNORE).any()) for draw in range(8)]
    assert [True, False] in [sorted(labelled[step : step + 2], reverse=True) for step in range(0, 8, 2)]
    history = read_history(tmp_path / "run")
    assert [step for step, _ in history["train/loss"]] == [0, 1, 2, 3]
    for quantity in history.values():
        assert np.isfinite([value for _, value in quantity]).all()
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())
