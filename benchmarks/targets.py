"""Whole models beside their reference forms, and large images beside small ones.

    python benchmarks/targets.py --threads 2 --rounds 9 --out benchmarks/targets_<hardware>_<date>.md

Cases take turns, round by round, in one process for each work: random weights and images, no gradients but for the
training steps. Earlier work in a process would count otherwise: a C library that keeps large blocks favours the case
that takes most of them. Memory is the peak of a step above the memory held before it, in a process of its own, after a
step that warms up.
Tables hold medians of the rounds' ratios, with quartiles: with glibc's defaults, under which every large block is new
memory, and with blocks kept, as semask's command keeps them for itself (a process each). `--clock cpu` with one thread
is for machines with other users. `--check` compares with the bounds in `benchmarks/bounds.json` and fails if one is
broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from reference import reference_forms
from semask.benchmark.candidate import as_candidate, work_of
from semask.benchmark.memory import in_fresh_process, peak_memory
from semask.benchmark.options import Options
from semask.benchmark.rounds import Clock, Quantiles, Work, alternate, cpu_time, wall
from semask.inference import build_predictor
from semask.losses.pixel import pixel_cross_entropy
from semask.models.build import build
from semask.recipes import DataRecipe, TestRecipe, get_recipe

TINY, LARGE = "ade20k/semask-swin-t-fpn", "ade20k/semask-swin-l-mask2former"
WINDOWS = TestRecipe(mode="sliding", window=(512, 512), stride=(512, 512), batch_size=1)


def label_map(recipe: str, height: int, width: int, num_classes: int | None = None, *, windows: bool = False) -> Work:
    """Image → label map, at once or through sliding windows."""
    model = build(recipe, num_classes).fuse()
    predictor = build_predictor(model, WINDOWS, DataRecipe()) if windows else model
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))

    def work() -> object:
        with torch.inference_mode():
            return predictor.labels(images)

    return work


def training_step(recipe: str, batch: int, height: int, width: int) -> Work:
    """Forward, loss and backward."""
    candidate = as_candidate(recipe, build(recipe), get_recipe(recipe))
    return work_of(candidate, Options(what="train", size=(height, width)), torch.device("cpu"), batch)


def loss_path(batch: int, num_classes: int, stride: int, side: int) -> Work:
    """Logits at a coarse grid → loss → their gradient."""
    generator = torch.Generator().manual_seed(0)
    coarse = side // stride
    logits = torch.randn(batch, num_classes, coarse, coarse, generator=generator).requires_grad_()
    labels = torch.randint(0, num_classes, (batch, side, side), generator=generator).to(torch.uint8)

    def work() -> object:
        return torch.autograd.grad(pixel_cross_entropy(logits, labels), logits)

    return work


KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 * 2**30))
"""Settings of glibc under which a process keeps the blocks that it frees."""
WORKS: dict[str, Callable[[], Work]] = {
    "loss path, K = 150, 2 × 128² → 512²": partial(loss_path, 2, 150, 4, 512),
    "loss path, K = 19, 2 × 128² → 512²": partial(loss_path, 2, 19, 4, 512),
    "loss path, K = 150, 2 × 32² → 512²": partial(loss_path, 2, 150, 16, 512),
    "SeMask-T FPN, 512², image → label map": partial(label_map, TINY, 512, 512),
    "SeMask-T FPN, 512², training step, batch 2": partial(training_step, TINY, 2, 512, 512),
    "Seg-B-Mask/16, 512², image → label map": partial(label_map, "ade20k/seg-b-mask-16", 512, 512),
    "SeMask-L Mask2Former, 640², image → label map": partial(label_map, LARGE, 640, 640),
}
"""Works that run both ways, by their names in the table."""
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
        partial(label_map, TINY, 4096, 4096, windows=True),
        partial(label_map, TINY, 2048, 2048, windows=True),
        4.0,
    ),
}
"""Two works, large and small, and how many times more pixels the large one has."""


def in_way(make: Callable[[], Work], reference: bool) -> Work:
    work = make()

    def run() -> object:
        with reference_forms(reference):
            return work()

    return run


def peak(make: Callable[[], Work], reference: bool, threads: int) -> int:
    """Return the most memory that a step needs above what was there [bytes]."""
    torch.set_num_threads(threads)
    work = in_way(make, reference)
    work()
    return peak_memory(work).above


def quartiles(found: Quantiles) -> str:
    return f"{found.median:.2f}× ({found.q25:.2f} … {found.q75:.2f})"


def compare(name: str, rounds: int, clock: Clock, threads: int) -> tuple[str, str, dict[str, float]]:
    """Return cells of the table, and the ratios of time and memory of the fast path to the reference form."""
    torch.set_num_threads(threads)
    make = WORKS[name]
    fast, reference = (in_fresh_process(peak, make, way, threads) for way in (False, True))
    cases = {"fast": in_way(make, False), "reference": in_way(make, True)}
    time = alternate(cases, rounds=rounds, clock=clock).ratio("fast", "reference")
    memory = f"{fast / reference:.2f}× ({fast / 2**20:.0f} of {reference / 2**20:.0f} MiB)"
    return quartiles(time), memory, {"time": time.median, "memory": fast / reference}


def grow(name: str, rounds: int, clock: Clock, threads: int) -> tuple[str, str, dict[str, float]]:
    """Return cells of the table, and the ratios of time a pixel and of memory of the large image to the small one."""
    torch.set_num_threads(threads)
    large, small, times = SIZES[name]
    held = [in_fresh_process(peak, make, False, threads) for make in (large, small)]
    found = alternate({"large": large(), "small": small()}, rounds=rounds, clock=clock).ratio("large", "small")
    time = Quantiles(*(value / times for value in found[:-1]), found.runs)
    memory = f"{held[0] / held[1]:.2f}× ({held[0] / 2**20:.0f} beside {held[1] / 2**20:.0f} MiB)"
    return f"{quartiles(time)} a pixel", memory, {"time": time.median, "memory": held[0] / held[1]}


def broken(name: str, ratios: Mapping[str, float], bounds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the ratios above their bounds."""
    return [
        f"{name}: {what} {ratios[what]:.2f}×, bound {bound:.2f}×"
        for what, bound in bounds.get(name, {}).items()
        if ratios[what] > bound
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="works whose words hold this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="fail where a bound of bounds.json is broken")
    options = parser.parse_args()
    clock = wall if options.clock == "wall" else cpu_time
    bounds = json.loads((Path(__file__).parent / "bounds.json").read_text())
    lines = ["| work | time | time, blocks kept | peak memory |", "|---|---|---|---|"]
    broken_bounds = []
    spawn = multiprocessing.get_context("spawn")
    for name in (name for name in (*WORKS, *SIZES) if options.only in name):
        measure = compare if name in WORKS else grow
        cells = []
        for settings in ({}, KEPT):
            os.environ.update(settings)
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                time, memory, ratios = process.submit(measure, name, options.rounds, clock, options.threads).result()
            for setting in settings:
                del os.environ[setting]
            cells.append(time)
            if not settings:
                held = memory
                broken_bounds += broken(name, ratios, bounds)
        lines.append(f"| {name} | {' | '.join(cells)} | {held} |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    for bound in broken_bounds:
        print(bound, file=sys.stderr)
    return 1 if options.check and broken_bounds else 0


if __name__ == "__main__":
    sys.exit(main())
