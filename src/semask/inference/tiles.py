"""Rasters too large for memory: a plan of their windows, and their label maps strip by strip."""

from __future__ import annotations

import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from semask.data.classes import Classes
from semask.data.readers.raster import as_rgb
from semask.inference.from_recipe import build_predictor, read_size
from semask.inference.predictor import predictor_of
from semask.inference.regions import RegionImage
from semask.inference.rows import RowStore
from semask.inference.seams import SeamMeter
from semask.inference.sinks import TILE, Result, to_bytes, to_halves
from semask.inference.zarr_maps import open_probabilities
from semask.ops.argmax import label_map
from semask.ops.resize import window_starts
from semask.recipes.prediction import PredictOptions
from semask.recipes.recipe import DataRecipe, TestRecipe
from semask.structures import IGNORE, Predictor
from semask.text import duration

GIB = 2**30
WHOLE = 2**24
"""Images of more pixels are read by region where their file allows it."""
SHOWN = 4096
"""Longest side of overlays of rasters [px]."""
SIDES = (2048, 1536, 1024, 768, 512, 384, 256, 128)
"""Sides of windows to choose from [px] for models that are tested on whole images."""
BATCHES = (8, 4, 2, 1)
UNKNOWN = {"confidence": 0, "entropy": 255, "prior": IGNORE}
"""Values of maps where an image has no data."""
ENCODING = 2**27
"""Memory for writing files at the end [bytes], beside 12 bytes for every pixel of the overlay."""


class TilePlan(NamedTuple):
    """How a raster is segmented: windows, and estimates of memory [bytes], disk [bytes] and time [s]."""

    test: TestRecipe
    windows: int
    memory: int
    disk: int
    seconds: float

    def to_json(self) -> list[Any]:
        """Plain values, for a run that goes on later."""
        return [asdict(self.test), *self[1:]]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> TilePlan:
        """The plan of an earlier run."""
        test: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values[0].items()
        }
        return cls(TestRecipe(**test), *values[1:])

    def __str__(self) -> str:
        (tall, wide), stride = self.test.window, self.test.stride
        overlap = f"{tall - stride[0]}×{wide - stride[1]}"
        return (
            f"{self.windows} windows of {tall}×{wide} px, overlap {overlap} px, {self.test.blend}, "
            f"{self.test.batch_size} at once; about {self.memory / GIB:.1f} GiB of memory, "
            f"{self.disk / GIB:.1f} GiB of disk, {duration(self.seconds)}"
        )


def plan_tiles(model: Any, image: RegionImage, data: DataRecipe, test: TestRecipe, options: PredictOptions) -> TilePlan:
    """Choose windows and batch for a raster within `options.memory`, from a trial of the model.

    A recipe that is tested by windows keeps its window; of others the largest is taken that is no smaller than the
    training crop and fits.

    Raises:
        ValueError: The memory is too small.
    """
    height, width = read_size(data, *image.shape[-2:])
    budget = math.inf if options.memory is None else options.memory * GIB
    base = _resident()
    # windows to choose from, the largest first
    if test.mode == "sliding":
        shapes = [(test.window, test.stride)]
    else:
        test = replace(test, blend="hann")
        fixed, multiple = getattr(model, "fixed_size", None), getattr(model, "size_multiple", 1)
        least = max(data.crop)
        sides = [side for side in SIDES if side <= max(2 * least, SIDES[-1])]
        sides = [side for side in sides if side >= min(least, sides[0])] or [sides[-1]]
        sides = [max(multiple, side // multiple * multiple) for side in sides]
        shapes = (
            [(fixed, (fixed[0] * 3 // 4, fixed[1] * 3 // 4))] if fixed else [((s, s), (s * 3 // 4,) * 2) for s in sides]
        )
    # kept for a strip: scores of the windows over it, rows of every map, and the tiles of the file
    classes, maps = int(getattr(model, "num_classes", 1)), 1 + len(options.measures)
    least_needed = 0
    for window, stride in shapes:
        window = min(window[0], height), min(window[1], width)  # noqa: PLW2901
        stride = min(stride[0], window[0]), min(stride[1], window[1])  # noqa: PLW2901
        seconds, needed = _trial(model, image, window)
        lines = classes * window[0] * width * 4 // 8
        lines += 2 * TILE * width * 4 * classes * options.probabilities
        lines += ENCODING + 12 * math.prod(image.shape[-2:]) // _thinning(image) ** 2
        strips = lines + TILE * width * (maps + 4 * len(image.shape)) + 2 * (window[0] + TILE) * width * image.shape[1]
        # on a CPU windows go one by one: a batch gains nothing, and rounding would depend on its size
        on_gpu = image.device.type == "cuda"
        for batch in BATCHES if on_gpu and options.memory is not None else (test.batch_size if on_gpu else 1,):
            memory = base + strips + needed * batch
            least_needed = min(least_needed or memory, memory)
            if memory <= budget:
                count = math.prod(
                    len(window_starts(size, side, step))
                    for size, side, step in zip((height, width), window, stride, strict=True)
                )
                chosen = replace(test, mode="sliding", window=window, stride=stride, batch_size=batch)
                disk = math.prod(image.shape[-2:]) * (maps + classes * options.probabilities) * 2
                return TilePlan(chosen, count, memory, disk, count * seconds * len(test.scales) * (1 + test.flip))
    raise ValueError(
        f"{image.raster.name}: {options.memory:g} GiB are too little for {width} px of width; at least "
        f"{least_needed / GIB:.1f} GiB are needed (--memory)"
    )


def segment_tiles(
    model: Predictor,
    image: RegionImage,
    plan: TilePlan,
    data: DataRecipe,
    options: PredictOptions,
    *,
    store: RowStore,
    classes: Classes,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[Result, SeamMeter]:
    """Segment a raster strip by strip into the raw maps of `store`, from the strip on at which an earlier run ended.

    The caller encodes the result, whose maps are on disk, and removes the folder then. The meter has measured how the
    windows fit together.
    """
    meter = SeamMeter(has_map=options.seams)
    predictor = build_predictor(model, plan.test, data, meter=meter, valid_border=options.valid_border)
    height, width = image.shape[-2:]
    step = _thinning(image)
    probabilities, stored = None, None
    if options.probabilities:
        probabilities = store.folder / "probabilities.zarr"
        shape = (len(classes), height, width)
        if store.done < height:
            stored = open_probabilities(probabilities, shape, classes, fresh=not store.done)
    meter.restore(store.notes.get("seams"))
    gaps = bool(store.notes.get("gaps"))
    advance(store.done)
    left = store.done < height
    strips = predictor.strips(image, TILE, top=store.done, measures=options.measures) if left else ()
    with closing(store):
        for first, last, labels, confidence, entropy, scores in strips:
            found = {"labels": labels[0].cpu().numpy()}
            for name, values in (("confidence", confidence), ("entropy", entropy)):
                if values is not None:
                    found[name] = to_bytes(values[0])
            valid = image.valid(first, last)
            if valid is not None:
                gaps = gaps or not valid.all()
                unknown = {"labels": IGNORE, **UNKNOWN}
                found = {name: np.where(valid, each, unknown[name]).astype(np.uint8) for name, each in found.items()}
            # before the strip counts as done: its chunks are written again otherwise
            if stored is not None and scores is not None:
                stored[:, first:last] = to_halves(scores[0])
            store.append(found, seams=meter.state(), gaps=gaps)
            advance(last)
    maps: dict[str, Any] = {name: store.map(name) for name in ("confidence", "entropy") if name in options.measures}
    shown = _thumbnail(image, step)
    result = Result(
        store.map("labels"),
        shown,
        step,
        **maps,
        probabilities=probabilities,
        georeference=image.raster.georeference,
        has_gaps=gaps,
        seams=meter.map(),
    )
    return result, meter


def overlap_hint(model: Predictor, image: RegionImage, plan: TilePlan, data: DataRecipe) -> int | None:
    """Overlap [px] that hides the seams in the middle of a raster, from four windows there; None if unknown."""
    height, width = image.shape[-2:]
    window = plan.test.window
    if height < 2 * window[0] or width < 2 * window[1]:
        return None
    top, left = (height - window[0] * 3 // 2) // 2, (width - window[1] * 3 // 2) // 2
    crop = image[0, :, top : top + window[0] * 3 // 2, left : left + window[1] * 3 // 2]
    meter = SeamMeter()
    half = replace(plan.test, stride=(window[0] // 2, window[1] // 2), scales=(1.0,), flip=False, enlarge=False)
    build_predictor(model, half, replace(data, base_scale=None, base_ratio=1.0), meter=meter).labels(crop[None])
    return meter.overlap()


def _trial(model: Predictor, image: RegionImage, window: tuple[int, int]) -> tuple[float, int]:
    """Time [s] and memory [bytes] of one pass over a window of noise."""
    noise = torch.rand(1, image.shape[1], *window, device=image.device)
    on_gpu = image.device.type == "cuda"
    base, peak, ended = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, _resident() - base)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for _ in range(2):
            # the first pass loads libraries and chooses kernels
            before = time.perf_counter()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(image.device)
            label_map(predictor_of(model).lazy_scores(noise))
            seconds = time.perf_counter() - before
    finally:
        ended.set()
        watcher.join()
    return seconds, max(torch.cuda.max_memory_allocated(image.device) if on_gpu else peak, noise.nbytes)


def _thinning(image: RegionImage) -> int:
    """Step between the pixels of a raster that overlays show."""
    return max(1, math.ceil(max(image.shape[-2:]) / SHOWN))


def _thumbnail(image: RegionImage, step: int) -> UInt8[Tensor, "3 h w"]:
    """Every `step`-th pixel of a raster as RGB bytes, read by blocks of rows: a chunk is decoded for each of them."""
    channels, height, width = image.shape[-3:]
    rows = max(1, ENCODING // (16 * channels * width * step)) * step
    blocks = (image[0, :, first : first + rows, 0:width] for first in range(0, height, rows))
    return rgb_bytes(torch.cat([block[:, ::step, ::step].cpu().contiguous() for block in blocks], 1))


def rgb_bytes(image: Tensor) -> UInt8[Tensor, "3 h w"]:
    """An image c h w as overlays show it."""
    rgb = as_rgb(image)
    return rgb if rgb.dtype == torch.uint8 else (rgb * 255).round().to(torch.uint8)


def _resident() -> int:
    """Memory of this process now [bytes]; its peak where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
