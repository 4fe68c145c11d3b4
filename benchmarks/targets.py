"""Whole models beside their plain formulations, and large images beside small ones.

    python benchmarks/targets.py --threads 2 --rounds 9 --out benchmarks/targets_<hardware>_<date>.md

Sides take turns, round by round, in one process a work: random weights and pictures, no gradients but for the training
steps. What ran before would count otherwise: a C library that has come to keep large blocks serves who takes most of
them best. Memory is the most that a step holds above what was there before it, in a process of its own, after a step
that warms up.
Tables hold medians of the rounds' ratios, with quartiles. `--clock processor` with one thread is for machines that
others use as well. `--check` compares with the bounds in `benchmarks/bounds.json` and fails where one is broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from plain import chosen

from semask.benchmark.clock import Clock, Work, processor, wall
from semask.benchmark.memory import in_fresh_process, peak_memory
from semask.benchmark.rounds import alternate
from semask.benchmark.rounds import Spread
from semask.build import build, build_loss
from semask.inference import build_predictor
from semask.losses.pixel import pixel_cross_entropy
from semask.recipes import DataRecipe, TestRecipe, get

TINY, LARGE = "ade20k/semask-swin-t-fpn", "ade20k/semask-swin-l-mask2former"
WINDOWS = TestRecipe(mode="sliding", window=(512, 512), stride=(512, 512), batch_size=1)


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def label_map(recipe: str, height: int, width: int, num_classes: int | None = None) -> Work:
    """Image → label map."""
    model, images = build(recipe, num_classes), pictures(1, height, width)

    def work() -> object:
        with torch.inference_mode():
            return model.labels(images)

    return work


def windows(recipe: str, height: int, width: int) -> Work:
    """Image → label map through sliding windows."""
    predictor, images = build_predictor(build(recipe), WINDOWS, DataRecipe()), pictures(1, height, width)

    def work() -> object:
        with torch.inference_mode():
            return predictor.labels(images)

    return work


def training_step(recipe: str, batch: int, height: int, width: int) -> Work:
    """Forward, loss and backward; the gradients are let go."""
    spec = get(recipe)
    model, loss, images = build(recipe).train(), build_loss(spec), pictures(batch, height, width)
    labels = torch.randint(
        0, spec.model.num_classes, (batch, height, width), generator=torch.Generator().manual_seed(1)
    )

    def work() -> object:
        model.zero_grad(set_to_none=True)
        terms = loss(model(images), model.pad_labels(labels.to(torch.uint8)))
        terms.total.backward()
        model.zero_grad(set_to_none=True)
        return terms.total.item()

    return work


def loss_path(batch: int, num_classes: int, stride: int, side: int) -> Work:
    """Logits at a coarse grid → loss → their gradient."""
    generator = torch.Generator().manual_seed(0)
    coarse = side // stride
    logits = torch.randn(batch, num_classes, coarse, coarse, generator=generator).requires_grad_()
    labels = torch.randint(0, num_classes, (batch, side, side), generator=generator).to(torch.uint8)

    def work() -> object:
        return torch.autograd.grad(pixel_cross_entropy(logits, labels), logits)

    return work


WORKS: dict[str, Callable[[], Work]] = {
    "loss path, K = 150, 2 × 128² → 512²": partial(loss_path, 2, 150, 4, 512),
    "loss path, K = 19, 2 × 128² → 512²": partial(loss_path, 2, 19, 4, 512),
    "loss path, K = 150, 2 × 32² → 512²": partial(loss_path, 2, 150, 16, 512),
    "SeMask-T FPN, 512², image → label map": partial(label_map, TINY, 512, 512),
    "SeMask-T FPN, 512², training step, batch 2": partial(training_step, TINY, 2, 512, 512),
    "Seg-B-Mask/16, 512², image → label map": partial(label_map, "ade20k/seg-b-mask-16", 512, 512),
    "SeMask-L Mask2Former, 640², image → label map": partial(label_map, LARGE, 640, 640),
}
"""What runs both ways, by the words of the table."""
SIZES: dict[str, tuple[Callable[[], Work], Callable[[], Work], float]] = {
    "SeMask-T FPN, K = 19, 1024×2048 beside 512²": (
        partial(label_map, TINY, 1024, 2048, 19),
        partial(label_map, TINY, 512, 512, 19),
        8.0,
    ),
    "SeMask-T FPN, K = 150, 1024×2048 beside 512²": (
        partial(label_map, TINY, 1024, 2048),
        partial(label_map, TINY, 512, 512),
        8.0,
    ),
    "SeMask-T FPN, K = 150, windows, 4096² beside 2048²": (
        partial(windows, TINY, 4096, 4096),
        partial(windows, TINY, 2048, 2048),
        4.0,
    ),
}
"""Two works, large and small, and how many times more pixels the large one has."""


def in_way(make: Callable[[], Work], plain: bool) -> Work:
    work = make()

    def run() -> object:
        with chosen(plain):
            return work()

    return run


def peak(make: Callable[[], Work], plain: bool, threads: int) -> int:
    """Return the most memory that a step needs above what was there [bytes]."""
    torch.set_num_threads(threads)
    work = in_way(make, plain)
    work()
    return peak_memory(work).above


def told(spread: Spread) -> str:
    return f"{spread.median:.2f}× ({spread.quarter:.2f} … {spread.three_quarters:.2f})"


def compare(name: str, rounds: int, clock: Clock, threads: int) -> tuple[str, dict[str, float]]:
    """Return a line of the table, and the ratios of time and memory of the fast way to the plain one."""
    torch.set_num_threads(threads)
    make = WORKS[name]
    fast, plain = (in_fresh_process(peak, make, way, threads) for way in (False, True))
    sides = {"fast": in_way(make, False), "plain": in_way(make, True)}
    time = alternate(sides, rounds=rounds, clock=clock).ratio("fast", "plain")
    memory = f"{fast / plain:.2f}× ({fast / 2**20:.0f} of {plain / 2**20:.0f} MiB)"
    return f"| {name} | {told(time)} | {memory} |", {"time": time.median, "memory": fast / plain}


def grow(name: str, rounds: int, clock: Clock, threads: int) -> tuple[str, dict[str, float]]:
    """Return a line of the table, and the ratios of time a pixel and of memory of the large image to the small one."""
    torch.set_num_threads(threads)
    large, small, times = SIZES[name]
    held = [in_fresh_process(peak, make, False, threads) for make in (large, small)]
    found = alternate({"large": large(), "small": small()}, rounds=rounds, clock=clock).ratio("large", "small")
    time = Spread(*(value / times for value in found[:-1]), runs=found.runs)
    memory = f"{held[0] / held[1]:.2f}× ({held[0] / 2**20:.0f} beside {held[1] / 2**20:.0f} MiB)"
    return f"| {name} | {told(time)} a pixel | {memory} |", {"time": time.median, "memory": held[0] / held[1]}


def broken(name: str, ratios: Mapping[str, float], bounds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what is slower or larger than it may be."""
    return [
        f"{name}: {what} {ratios[what]:.2f}×, may be {bound:.2f}×"
        for what, bound in bounds.get(name, {}).items()
        if ratios[what] > bound
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="works whose words hold this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="fail where a bound of bounds.json is broken")
    options = parser.parse_args()
    clock = wall if options.clock == "wall" else processor
    bounds = json.loads((Path(__file__).parent / "bounds.json").read_text())
    lines = ["| work | time | peak memory |", "|---|---|---|"]
    complaints = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name in (name for name in (*WORKS, *SIZES) if options.only in name):
            measure = compare if name in WORKS else grow
            line, ratios = processes.submit(measure, name, options.rounds, clock, options.threads).result()
            print(line, flush=True)
            lines.append(line)
            complaints += broken(name, ratios, bounds)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if options.check and complaints else 0


if __name__ == "__main__":
    sys.exit(main())
