"""Prediction runs beside the bare model: images per second of a folder, and of a raster beside its tiles in memory.

    python benchmarks/predict.py folder --images 200 2000
    python benchmarks/predict.py raster --side 6000

Both sides alternate in one process; ratios are medians over the rounds.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tifffile
import torch
import tyro
from PIL import Image
from tyro.conf import Positional

import semask
from semask.data.readers.raster import read_raster
from semask.inference import build_predictor, predictor_of
from semask.ops.resize import window_starts

ROUNDS = 5


def main(
    kind: Annotated[Literal["folder", "raster"], Positional],
    *,
    recipe: str = "camvid/semask-lite0-fpn",
    images: tuple[int, ...] = (200,),
    side: int = 4096,
    window: int = 512,
    rounds: int = ROUNDS,
) -> None:
    """Compare a run of `semask.predict` with the bare model.

    Args:
        kind: A folder of JPEGs, or one tiled TIFF.
        recipe: The model, with random weights.
        images: Numbers of images of the folder; several show whether memory grows.
        side: Side of the raster [px].
        window: Side of its windows [px].
        rounds: Rounds, of which the median ratio is printed.
    """
    model = semask.build(recipe).eval()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "folder":
            for count in images:
                compare_folder(model, Path(folder), count, rounds)
        else:
            compare_raster(model, Path(folder), side, window, rounds)


def compare_folder(model: Any, folder: Path, count: int, rounds: int) -> None:
    """JPEGs of CamVid's size, with and without reading and writing."""
    source = folder / f"in{count}"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((480, 360), Image.Resampling.BICUBIC).save(source / f"{number:05d}.jpg", quality=90)
    files = sorted(source.iterdir())
    few = [read_raster(str(path), model.recipe.data)[None] for path in files[:20]]
    predictor = build_predictor(model, model.recipe.test, model.recipe.data)

    def bare() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for number in range(count):
                predictor.labels(few[number % len(few)])
        return time.perf_counter() - began

    def run() -> float:
        began = time.perf_counter()
        semask.predict(model, source, folder / f"out{time.monotonic_ns()}")
        return time.perf_counter() - began

    ratios = alternate(bare, run, rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"folder of {count}: {statistics.median(ratios):.3f} of the bare model's images/s {ratios}, {peak:.0f} MiB")


def compare_raster(model: Any, folder: Path, side: int, window: int, rounds: int) -> None:
    """A tiled TIFF beside the same windows over tiles that are in memory."""
    rng = np.random.default_rng(0)
    tile = np.array(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((512, 512)))
    count = -(-side // 512)
    tifffile.imwrite(
        folder / "big.tif",
        (np.roll(tile, number, 0) for number in range(count**2)),
        shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), compression="zlib", photometric="rgb",
    )  # fmt: skip
    stride = window * 3 // 4
    crop = torch.from_numpy(tile[:window, :window].copy()).permute(2, 0, 1)[None]
    windows = len(window_starts(side, window, stride)) ** 2
    predictor = predictor_of(model)

    def bare() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(windows):
                predictor.labels(crop)
        return time.perf_counter() - began

    def run() -> float:
        began = time.perf_counter()
        options = {"mode": "sliding", "window": (window, window), "stride": (stride, stride), "blend": "hann"}
        semask.predict(model, folder / "big.tif", folder / f"out{time.monotonic_ns()}", overlay=False, **options)
        return time.perf_counter() - began

    ratios = alternate(bare, run, rounds)
    print(f"raster of {side}²: {statistics.median(ratios):.3f} of {windows} bare windows {ratios}")


def alternate(bare: Any, run: Any, rounds: int) -> list[float]:
    """Ratios of the bare time to the run's, one after the other in every round, after a first of each."""
    bare()
    run()
    return [round(bare() / run(), 3) for _ in range(rounds)]


if __name__ == "__main__":
    tyro.cli(main)
