from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from semask.checkpoints import store
from semask.data.dataset import validation_set
from semask.inference import build_predictor
from semask.metrics import Confusion
from semask.recipes import Recipe, TrainRecipe, to_dict
from semask.training.history import read_history

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from semask.recipes import from_dict
from semask.training.options import RunOptions
from semask.training.run import train

torch.set_num_threads(1)
out = Path(sys.argv[1])
recipe = from_dict(json.loads((out / "given.json").read_text()))
result = train(recipe, RunOptions(out=out / "run", accelerator="cpu", strategy="ddp", workers=0))
torch.save(result.confusion.matrix, out / f"matrix_{torch.distributed.get_rank()}.pt")
"""


def test_two_processes_train_and_count_like_one(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    """Five validation pictures do not divide by two: nothing may count twice, and no process may wait forever."""
    recipe = tiny_recipe(TrainRecipe(steps=4, batch_size=4, eval_every=2))
    (tmp_path / "given.json").write_text(json.dumps(to_dict(recipe)))
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    matrices = [torch.load(tmp_path / f"matrix_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.equal(*matrices)

    model, kept, _ = store.load(tmp_path / "run" / "last")
    predict = build_predictor(model, kept.test, kept.data)
    alone = Confusion(kept.model.num_classes)
    with torch.inference_mode():
        for sample in validation_set(kept.data):
            alone.update(predict(sample.image[None]).argmax(1)[0], sample.label)
    assert torch.equal(alone.matrix, matrices[0])
    assert int(alone.matrix.sum()) == 5 * 32 * 32

    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    (states,) = [state["ranks"] for name, state in saved["callbacks"].items() if name.startswith("RandomStates")]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    assert [step for step, _ in read_history(tmp_path / "run")["train/loss"]] == [0, 1, 2, 3]
    assert done.stdout.count("best mIoU") == 1
