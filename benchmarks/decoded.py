"""Training steps per second with images kept decoded, beside the same training that decodes each crop's image anew.

    python benchmarks/decoded.py --rounds 3 --steps 60

The set is twenty drawn scenes of 966×1296 px as PNG, with labels as PNG. All steps of a run count, also those of the
first epoch, in which both decode; the evaluation at the end, the same for both, does not. Runs take turns
(`--decoded 4` and `--decoded 0`), and ratios are of wall time, round by round, since loading and steps share the cores.
Scenes have no noise, and so decode faster than photographs do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from PIL import Image

from semask.benchmark.rounds import Quantiles, rotated
from semask.data.dataset import TrainingFiles, training_set, validation_set
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.losses.build import build_loss
from semask.models.build import build
from semask.recipes import Recipe, get_recipe
from semask.training.datamodule import SegmentationData
from semask.training.module import SegmentationModule
from semask.training.options import RunOptions
from semask.training.prepare import fit_classes
from semask.training.run import Run, quiet

SIZE, IMAGES = (966, 1296), {"train": 20, "val": 1}


def draw_files(root: Path) -> None:
    for split, count in IMAGES.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            image, label = draw_scene(number + 100 * (split == "val"), SIZE)
            Image.fromarray(image).save(root / f"images/{split}/{number:02}.png")
            Image.fromarray(np.asarray(label)).save(root / f"labels/{split}/{number:02}.png")
    (root / "classes.json").write_text(json.dumps(SCENE_CLASSES.to_dict()), encoding="utf-8")


class StepClock(Callback):
    """Seconds from the start of the loading processes to the end of the last step."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        self.ended = time.perf_counter()


def seconds_of_steps(recipe: Recipe, out: Path, workers: int, decoded: float) -> float:
    options, clock = RunOptions(out=out, overwrite=True, workers=workers), StepClock()
    recipe, classes = fit_classes(recipe)
    with quiet():
        training = Run(recipe, options, classes, callbacks=[clock])
        seed_everything(0, verbose=False)
        draws = training_set(recipe.data, seed=0)
        assert isinstance(draws, TrainingFiles)
        assert draws.keep_decoded(decoded) == (decoded > 0)
        # a whole run but for its report and its last evaluation
        module = SegmentationModule(build(recipe).train(), build_loss(recipe), recipe)
        data = SegmentationData(draws, validation_set(recipe.data), recipe, workers=workers)
        with redirect_stdout(StringIO()):
            training.fit(module, data, [])
    return clock.ended - clock.began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["folder/semask-micro-fpn", "folder/semask-lite0-fpn"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--crop", type=int, default=128, help="side of the crops [px]")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        draw_files(root)
        for name in options.recipes:
            recipe = get_recipe(name).override(
                {
                    "data.root": str(root),
                    "data.crop": (options.crop, options.crop),
                    "data.base_scale": None,
                    "train.steps": options.steps,
                    "train.eval_every": options.steps,
                    "optim.warmup_steps": 0,
                }
            )
            found: dict[str, list[float]] = {"kept": [], "anew": []}
            for number in range(options.rounds):
                for title in rotated([*found], number):
                    place, gibibytes = Path(folder) / "run", 4.0 if title == "kept" else 0.0
                    found[title].append(seconds_of_steps(recipe, place, options.workers, gibibytes))
            ratio = Quantiles.of([anew / kept for kept, anew in zip(*found.values(), strict=True)])
            rates = (f"{options.steps / statistics.median(each):.2f}" for each in found.values())
            lines.append(f"| {name} | {' | '.join(rates)} | {ratio} |")
            print(lines[-1], flush=True)
    head = f"crops of {options.crop}², {options.steps} steps, {options.workers} loading process(es)"
    columns = ("| recipe | kept [steps/s] | anew [steps/s] | kept / anew |", "|---|---:|---:|---:|")
    print("\n".join((head, "", *columns, *lines)))


if __name__ == "__main__":
    main()
