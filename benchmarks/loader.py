"""Images per second from files to batches of crops, beside a plain torchvision pipeline.

    python benchmarks/loader.py --rounds 7 --workers 0 1 2 --out benchmarks/loader_<hardware>_<date>.md

Both read the same files of drawn scenes (JPEG of quality 90 or PNG, labels as PNG) and make the same batches: decode,
resize by a random ratio, crop, flip, distort colours, to float, pad. torchvision's is what its documentation leads to:
Pillow, `transforms.v2` on `tv_tensors`, `RandomResize`, `RandomCrop`, `RandomPhotometricDistort`. Ours does a little
more: it redraws crops that one class fills, keeps the families' 8-bit rounding, maps label values to classes and
refuses values that are none. They take turns, and the table holds medians of the rounds' rates and of their ratios.
Images per second tell how workers scale, images per second of CPU time what one core does: on a machine that is shared,
only the second can be compared.

A first table holds ours beside itself: keeping decoded images (`--decoded`), resizing all of an image before it is
cropped, and decoding JPEG at a reduced size (`data.jpeg_draft`), which changes pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from semask.benchmark.rounds import Quantiles, alternate, cpu_time, rotated
from semask.data.dataset import TrainingFiles, collate, training_set
from semask.data.pairs import find_pairs
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.ops.reference import reference_mode
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from semask.structures import IGNORE

BATCH = 8
SIZES = {
    "ADE20K, 512×683": ((512, 683), (2048, 512), 512, "jpg"),
    "1080p, 1080×1920": ((1080, 1920), (2048, 1024), 512, "jpg"),
    "own photographs, 966×1296": ((966, 1296), (1296, 966), 256, "png"),
}
"""(height, width) of the images, the box (long, short) that they are fitted into at ratio 1, crop [px]; format."""
RATIOS = (0.5, 1.75)


class PlainSet(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same files through torchvision's transforms."""

    def __init__(self, data: DataRecipe, draws: int, short: int) -> None:
        self.pairs, self.draws = find_pairs(data, "train"), draws
        mean = [round(255 * value) for value in IMAGENET_MEAN]
        self.transform = v2.Compose(
            [
                v2.RandomResize(int(RATIOS[0] * short), int(RATIOS[1] * short), antialias=False),
                v2.RandomCrop(data.crop[0], pad_if_needed=True, fill={tv_tensors.Image: mean, tv_tensors.Mask: IGNORE}),
                v2.RandomHorizontalFlip(),
                v2.RandomPhotometricDistort((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1)),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.uint8}, scale=True),
            ]
        )

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[draw % len(self.pairs)]
        with Image.open(str(pair.image)) as picture, Image.open(str(pair.label)) as label:
            return self.transform(  # type: ignore[no-any-return]
                tv_tensors.Image(picture.convert("RGB")), tv_tensors.Mask(torch.from_numpy(np.array(label)))
            )


def draw_files(root: Path, size: tuple[int, int], count: int, suffix: str) -> None:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, label = draw_scene(number, size)
        Image.fromarray(image).save(root / f"images/train/{number:03}.{suffix}", quality=90)
        Image.fromarray(label).save(root / f"labels/train/{number:03}.png")
    (root / "classes.json").write_text(json.dumps(SCENE_CLASSES.to_dict()), encoding="utf-8")


def recipe(root: Path, box: tuple[int, int], crop: int) -> DataRecipe:
    return DataRecipe(root=str(root), base_scale=box, scale_range=RATIOS, crop=(crop, crop))


def one_thread(_: int = 0) -> None:
    torch.set_num_threads(1)


class Rate(NamedTuple):
    """Images per second, without the first batch, in which workers start, and per second of CPU time."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Return the seconds that this process and those of its workers that have ended were computing [s]."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def rate(loader: DataLoader[Any], draws: int) -> Rate:
    computing = cpu_seconds()
    batches = iter(loader)
    next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    wall = (draws - BATCH) / (time.perf_counter() - began)
    del batches  # ends the workers
    return Rate(wall, draws / (cpu_seconds() - computing))


def measure(data: DataRecipe, workers: int, draws: int, rounds: int) -> tuple[list[Rate], list[Rate]]:
    """Return the rates of ours and of the plain pipeline, round by round, who is first by turns."""
    ours = training_set(data, seed=0)

    def ours_once() -> Rate:
        sampler = list(range(draws))
        return rate(
            DataLoader(
                ours,
                batch_size=BATCH,
                sampler=sampler,
                collate_fn=collate,
                num_workers=workers,
                worker_init_fn=one_thread,
            ),
            draws,
        )

    def plain_once() -> Rate:
        plain = PlainSet(data, draws, min(data.base_scale or (0,)))
        return rate(DataLoader(plain, batch_size=BATCH, num_workers=workers, worker_init_fn=one_thread), draws)

    sides = {"ours": ours_once, "plain": plain_once}
    found: dict[str, list[Rate]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in rotated(list(sides), turn):
            found[name].append(sides[name]())
    return found["ours"], found["plain"]


def own_ways(data: DataRecipe, draws: int, rounds: int) -> list[str]:
    """Return lines of a table: our pipeline beside itself, in this process, by CPU time."""
    exact, reduced = (training_set(dataclasses.replace(data, jpeg_draft=on), seed=0) for on in (False, True))

    def read(samples: Dataset[Any]) -> None:
        for draw in range(draws):
            samples[draw]

    def plain() -> None:
        with reference_mode():
            read(exact)

    sides = {"plain": plain, "exact": lambda: read(exact), "reduced": lambda: read(reduced)}
    timings = alternate(sides, rounds=rounds, warmup=1, clock=cpu_time)
    unlike = likeness(data, draws)
    kept = training_set(data, seed=0)
    assert isinstance(kept, TrainingFiles)
    assert kept.keep_decoded(64)
    decoded = alternate(
        {"exact": lambda: read(exact), "kept": lambda: read(kept)}, rounds=rounds, warmup=1, clock=cpu_time
    )
    return [
        f"| decoded once / for every crop | {decoded.ratio('kept', 'exact')} | equal |",
        f"| the crop's part resized / the whole | {timings.ratio('exact', 'plain')} | equal |",
        f"| decoded smaller / whole | {timings.ratio('reduced', 'exact')} | {unlike} |",
    ]


def likeness(data: DataRecipe, draws: int) -> str:
    """Return how near images decoded at a reduced size come to others, without the distortion of colours."""
    still = dataclasses.replace(data, photometric=False)
    exact, reduced = (training_set(dataclasses.replace(still, jpeg_draft=on), seed=0) for on in (False, True))
    errors = [float((exact[draw].image - reduced[draw].image).square().mean()) for draw in range(draws)]
    found = [-10 * math.log10(error) for error in errors if error]
    if not found:
        return "no draw is small enough"
    return f"{len(found)} of {draws} draws differ, PSNR {statistics.median(found):.1f} dB (least {min(found):.1f})"


def table(rows: list[tuple[str, int, list[Rate], list[Rate]]]) -> str:
    lines = [
        "| images | workers | semask [img/s] | torchvision [img/s] | semask [img/s of a core] | torchvision "
        "[img/s of a core] | ratio per core, median (least … greatest) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, workers, ours, plain in rows:
        ratio = Quantiles.of([a.cpu / b.cpu for a, b in zip(ours, plain, strict=True)])
        walls = [f"{statistics.median(rate.wall for rate in rates):.1f}" for rates in (ours, plain)]
        cores = [f"{statistics.median(rate.cpu for rate in rates):.1f}" for rates in (ours, plain)]
        told = f"{ratio.median:.2f} ({ratio.min:.2f} … {ratio.max:.2f})"
        lines.append(f"| {' | '.join([name, str(workers), *walls, *cores, told])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=64, help="images per round and pipeline")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    one_thread()
    rows, own = [], ["| | time | pixels |", "| --- | ---: | --- |"]
    for name, (size, box, crop, suffix) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            draw_files(Path(folder), size, options.files, suffix)
            data = recipe(Path(folder), box, crop)
            found = own_ways(data, options.draws, options.rounds)
            own += [line.replace("| ", f"| {name}: ", 1) for line in found]
            print(*own[-len(found) :], sep="\n", flush=True)
            for workers in options.workers:
                rows.append((name, workers, *measure(data, workers, options.draws, options.rounds)))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    told = (
        "\n".join(own)
        + f"\n\n{table(rows)}\n\n{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, torchvision "
    )
    told += f"{torchvision.__version__}, {options.rounds} rounds of {options.draws} images, batches of {BATCH}\n"
    print(told)
    if options.out:
        options.out.write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
