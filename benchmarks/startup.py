"""How long commands take to begin, each in processes of its own, beside what cannot be avoided.

    python benchmarks/startup.py --rounds 9 --out benchmarks/startup_<hardware>_<date>.md

`import semask` and every --help are set beside a Python that does nothing, `semask predict` on one image of 512² px
beside a process that imports torch, timm, torchvision and Pillow and nothing else, plus what the model itself took for
its first label map in a third one. Sides take turns; the table holds medians of the rounds' ratios. By default the
CPU time of the processes counts, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from semask.benchmark.machine import environment
from semask.benchmark.memory import in_fresh_process
from semask.benchmark.rounds import Quantiles, Timings, Work, alternate, wall
from semask.checkpoints import store
from semask.cli.main import COMMANDS
from semask.data.scenes.scene import draw_scene
from semask.models.build import build
from semask.recipes import get_recipe

NOTHING, BARE, PREDICT = "python -c pass", "import torch, timm, torchvision, PIL.Image", "semask predict"
SEMASK = (sys.executable, "-m", "semask.cli.main")


def children(work: Work) -> float:
    """Return the seconds that processes begun and ended by the work were computing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


CLOCKS = {"wall": wall, "cpu": children}


def process(*command: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    return run


def own_time(checkpoint: Path, clock: str) -> float:
    """Return what the first label map of a model takes [s], once it is read."""
    torch.set_num_threads(1)
    model = store.load(checkpoint).model
    images = torch.rand(1, 3, 512, 512)
    timer = time.perf_counter if clock == "wall" else time.process_time
    with torch.inference_mode():
        began = timer()
        model.labels(images)
        return timer() - began


def small(rounds: int, clock: str) -> Iterator[str]:
    sides = {NOTHING: process(sys.executable, "-c", "pass")}
    sides["import semask"] = process(sys.executable, "-c", "import semask")
    sides["semask --help"] = process(*SEMASK, "--help")
    sides |= {f"semask {command} --help": process(*SEMASK, command, "--help") for command in COMMANDS}
    found = alternate(sides, rounds=rounds, warmup=1, clock=CLOCKS[clock])
    for name in list(sides)[1:]:
        yield row(name, NOTHING, found.ratio(name, NOTHING), found)


def predictions(rounds: int, clock: str, recipes: Sequence[str]) -> Iterator[str]:
    for name in recipes:
        with tempfile.TemporaryDirectory() as folder:
            recipe, picture = get_recipe(name), str(Path(folder) / "picture.jpg")
            store.save(build(recipe), folder)
            Image.fromarray(draw_scene(0, (512, 512))[0]).save(picture)
            sides = {
                BARE: process(sys.executable, "-c", BARE),
                PREDICT: process(*SEMASK, "predict", folder, picture, "--out", f"{folder}/out", "--device", "cpu"),
            }
            found = alternate(sides, rounds=rounds, warmup=1, clock=CLOCKS[clock])
            own = [in_fresh_process(partial(own_time, Path(folder), clock)) for _ in range(rounds)]
            both = zip(found.seconds[PREDICT], found.seconds[BARE], own, strict=True)
            ratios = Quantiles.of([a / (b + c) for a, b, c in both])
            yield row(f"{PREDICT}, {name}", "the imports and its model", ratios, found)


def row(name: str, beside: str, seen: Quantiles, found: Timings) -> str:
    side = name.partition(",")[0]
    told = f"{seen.median:.2f}× | {seen.min:.2f} … {seen.max:.2f}"
    return f"| `{name}` | {beside} | {told} | {found.quantiles(side).median:.2f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--recipes", nargs="*", default=["ade20k/semask-swin-t-fpn", "ade20k/seg-b-mask-16"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| side | beside | ratio, median | least … greatest | median |", "|---|---|---|---|---|"]
    for line in itertools.chain(
        small(options.rounds, options.clock), predictions(options.rounds, options.clock, options.recipes)
    ):
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    around = environment(torch.device("cpu"))
    machine = f"{around['cpu']}, {around['cores']} cores, Python {around['packages']['python']}"
    versions = f"torch {torch.__version__}, timm {around['packages']['timm']}"
    told = f"{machine}, {versions}; {options.rounds} rounds; {options.clock} time; one thread; load {around['load']}"
    text = "\n".join([*lines, "", told, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
