"""Evaluation beside plain code: the confusion matrix, the whole loop, and the memory of a large image.

    python benchmarks/evaluation.py matrix loop memory --rounds 9 --out benchmarks/evaluation_<hardware>_<date>.md

matrix: one image of 512×683 px and 150 classes into a confusion matrix, beside torchmetrics' MulticlassJaccardIndex
without its checks. loop: files → model → label maps → matrix, beside a loop that takes whole scores and torchmetrics,
over the same model and files. memory: the most that one 4096×4096 image with 150 classes needs above what the model
itself needs for what it is shown, each in a process of its own. Sides take turns; tables hold medians of the rounds'
ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from semask.benchmark.memory import in_fresh_process, resident
from semask.benchmark.rounds import Clock, Work, alternate, cpu_time, wall
from semask.data.dataset import validation_set
from semask.data.scenes.scene import draw_scene
from semask.evaluation import Measures, evaluate_model
from semask.evaluation.metrics.confusion import count_pairs
from semask.inference import build_predictor
from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, TestRecipe
from semask.structures import IGNORE

K = 150
SIZE = (512, 683)
LARGE = 4096
RECIPES = ("ade20k/semask-swin-t-fpn", "ade20k/seg-t-mask-16")
CLOCKS: dict[str, Clock] = {"wall": wall, "cpu": cpu_time}
NOTHING_ELSE = Measures(boundary=False, areas=(), bins=0)


def ratio(theirs: Work, ours: Work, rounds: int, clock: Clock) -> str:
    """Return theirs / ours of the rounds in a table's cells."""
    found = alternate({"theirs": theirs, "ours": ours}, rounds=rounds, warmup=1, clock=clock).ratio("theirs", "ours")
    return f"{found.median:.2f}× | {found.min:.2f} … {found.max:.2f} | {found.runs}"


def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Label maps with regions, as images have them, and a tenth ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, K, (2, 1, 24, 32), generator=generator)
    prediction, truth = F.interpolate(coarse.float(), SIZE).long()
    truth[:, : SIZE[0] // 10] = IGNORE
    return prediction[0], truth[0]


def matrix(rounds: int, clock: Clock) -> list[str]:
    prediction, truth = maps(0)
    bytes_of = prediction.to(torch.uint8), truth.to(torch.uint8)
    lines = []
    for what, given in (("64-bit maps to theirs", (prediction, truth)), ("bytes to both", bytes_of)):
        metric = MulticlassJaccardIndex(K, ignore_index=IGNORE, validate_args=False)
        metric.update(*given)
        assert torch.equal(metric.confmat, count_pairs(*bytes_of, K)), "both count the same"

        def theirs(metric: MulticlassJaccardIndex = metric, given: tuple[torch.Tensor, torch.Tensor] = given) -> None:
            for _ in range(10):
                metric.update(*given)

        def ours() -> None:
            for _ in range(10):
                count_pairs(*bytes_of, K)

        lines.append(f"| matrix, {what} | {ratio(theirs, ours, rounds, clock)} |")
    return lines


def plain_loop(model: SegmentationModel, root: Path, files: int) -> torch.Tensor:
    metric = MulticlassJaccardIndex(K, ignore_index=IGNORE, validate_args=False)
    with torch.inference_mode():
        for number in range(files):
            image = np.array(Image.open(root / "images" / "val" / f"{number}.jpg"))
            label = np.array(Image.open(root / "labels" / "val" / f"{number}.png"))
            scores = model.scores(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
            metric.update(scores.argmax(1), torch.from_numpy(label)[None].long())
    return metric.confmat


def loop(rounds: int, clock: Clock) -> list[str]:
    lines, files = [], 4
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind in ("images", "labels"):
            (root / kind / "val").mkdir(parents=True)
        for number in range(files):
            image, label = draw_scene(2 * number, SIZE)
            Image.fromarray(image).save(root / "images" / "val" / f"{number}.jpg", quality=92)
            Image.fromarray(label).save(root / "labels" / "val" / f"{number}.png")
        (root / "classes.json").write_text(json.dumps({"classes": [f"class {number}" for number in range(K)]}))
        data = DataRecipe(root=str(root), images="images/{split}", labels="labels/{split}")
        for name in RECIPES:
            model = build(name)
            predictor = build_predictor(model, TestRecipe(), data)

            def ours(predictor: Callable[..., object] = predictor) -> torch.Tensor:
                return evaluate_model(
                    predictor, validation_set(data), num_classes=K, measures=NOTHING_ELSE
                ).confusion.matrix

            def theirs(model: SegmentationModel = model) -> torch.Tensor:
                return plain_loop(model, root, files)

            differing = int((ours() - theirs()).abs().sum()) // 2
            lines.append(f"| loop, {name} ({differing} pixels differ) | {ratio(theirs, ours, rounds, clock)} |")
    return lines


def large() -> torch.Tensor:
    return torch.rand(1, 3, LARGE, LARGE, generator=torch.Generator().manual_seed(0))


class Coarse(torch.nn.Module):
    """What a whole-image model gives: 150 logits at stride 4."""

    size_multiple, scores_are_logits = 1, True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(images[:, :1], 4)
        return pooled * torch.linspace(-1, 1, K)[:, None, None]

    def lazy_scores(self, images: torch.Tensor) -> object:
        from semask.structures import PixelLogits

        return PixelLogits(self(images)).lazy_scores((images.shape[-2], images.shape[-1]))

    lazy_prior = lazy_scores


def peak(what: str) -> float:
    """Return the most memory [GiB] that this process has held after doing it."""
    windows = TestRecipe(mode="sliding", window=(512, 512), stride=(512, 512))
    images, model = large(), build(RECIPES[0]) if what.startswith("windows") else Coarse()
    with torch.inference_mode():
        if what == "windows, model alone":
            model(images[..., :512, :512])
        elif what == "whole, model alone":
            model(images)
        else:
            build_predictor(model, windows if what == "windows" else TestRecipe(), DataRecipe()).labelled(images)
    return resident("VmHWM") / 2**30


def memory() -> list[str]:
    lines = []
    for kind in ("whole", "windows"):
        alone, all_of_it = (in_fresh_process(peak, what) for what in (f"{kind}, model alone", kind))
        lines.append(f"| memory, {kind} | {all_of_it - alone:.2f} GiB above the model's {alone:.2f} GiB | | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=["matrix", "loop", "memory"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    lines = ["| what | median | least … most | rounds |", "|---|---|---|---|"]
    for part in options.parts:
        lines += {
            "matrix": lambda: matrix(options.rounds, clock),
            "loop": lambda: loop(options.rounds, clock),
            "memory": memory,
        }[part]()
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
