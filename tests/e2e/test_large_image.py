"""A 4096×4096 image with 150 classes, whose scores take 10 GB, is evaluated within 3 GB above what its model needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
import torch.nn.functional as F
from semask.evaluation import evaluate_model
from semask.inference import build_predictor
from semask.recipes import DataRecipe, TestRecipe
from semask.structures import PixelLogits, Sample

class Model(torch.nn.Module):
    size_multiple, scores_are_logits = 1, True
    def forward(self, images):
        return F.avg_pool2d(images[:, :1], 4) * torch.linspace(-1, 1, 150)[:, None, None]
    def lazy_scores(self, images):
        return PixelLogits(self(images)).lazy_scores(tuple(images.shape[-2:]))
    lazy_prior = lazy_scores

class One:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        if index:
            raise IndexError(index)
        return Sample(torch.rand(3, 4096, 4096), torch.randint(0, 150, (4096, 4096), dtype=torch.uint8), "large")

mode, model = sys.argv[1], Model()
with torch.inference_mode():
    if mode == "model alone":
        model(One()[0].image[None])
    else:
        test = TestRecipe(mode=mode, window=(512, 512), stride=(341, 341))
        accumulator = evaluate_model(build_predictor(model, test, DataRecipe()), One(), num_classes=150)
        assert int(accumulator.scores().pixels.sum()) == 4096**2
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak(mode: str) -> int:
    """Return the most bytes that a process of its own has held."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_stays_flat() -> None:
    alone = peak("model alone")
    for mode in ("whole", "sliding"):
        assert peak(mode) - alone < 3e9, mode
