"""A model as it segments items of every kind: reading, predicting, writing, each of which may run in a thread."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from semask.data.classes import Classes
from semask.data.published.submission import Submission
from semask.data.readers.image import header_size
from semask.data.readers.raster import read_raster
from semask.data.readers.regions import Georeference, open_raster
from semask.inference.from_recipe import build_predictor, build_prior, scale_note, window_warning
from semask.inference.manifest import Line, digest
from semask.inference.predictor import Pipeline
from semask.inference.regions import RegionImage
from semask.inference.rows import RowStore
from semask.inference.sinks import SUBMISSION, Result, Sinks, shares, to_bytes, to_halves, unfinished
from semask.inference.sources import Item
from semask.inference.tiles import UNKNOWN, WHOLE, TilePlan, overlap_hint, plan_tiles, rgb_bytes, segment_tiles
from semask.recipes.prediction import NEUTRAL, PredictOptions
from semask.recipes.recipe import DataRecipe, TestRecipe
from semask.structures import IGNORE
from semask.text import percent

Log = Callable[[str], None]
NARROW = 0.07
"""Share of the range of values that 12-bit content in a 16-bit file fills, and a little more."""


class Loaded(NamedTuple):
    """One image in memory, c H W, with the pixels that have data and its georeference; or an image read by region."""

    image: Tensor | RegionImage
    valid: np.ndarray | None = None
    georeference: Georeference | None = None


def shown(loaded: Loaded) -> UInt8[Tensor, "3 h w"]:
    """An image in memory as overlays show it."""
    assert isinstance(loaded.image, Tensor)
    return rgb_bytes(loaded.image.cpu())


class Engine:
    """The predictors and sinks of a run.

    Args:
        model: A SegmentationModel; its recipe says how images are read.
        classes: Names and colours.
        options: What is written, and how.
        data, test: Scale and predictor; None are the recipe's.
        weights: Hash of the model's weights.
        log: Writes a line to the user; each note and warning comes once.
    """

    def __init__(
        self,
        model: Any,
        classes: Classes,
        options: PredictOptions,
        *,
        data: DataRecipe,
        test: TestRecipe,
        weights: str,
        log: Log = print,
    ) -> None:
        if options.prior and not model.semantic_layers:
            name = model.recipe.name if model.recipe else type(model).__name__
            raise ValueError(f"{name} has no semantic layers and so no semantic prior; leave out --prior")
        self.model, self.classes, self.options, self.data, self.test = model, classes, options, data, test
        self.device, self.weights = model.mean.device, weights
        self.sinks = Sinks(options, classes)
        self.predictor = build_predictor(model, test, data, valid_border=options.valid_border)
        self.prior = build_prior(model, test, data) if options.prior else None
        self.submission = options.submission and Submission(options.submission, classes, options.out / SUBMISSION)
        # windows of the flags, in place of the checkpoint's own test
        own = model.recipe.test if model.recipe else TestRecipe()
        self._windows = test if (test.mode, test.window) != (own.mode, own.window) else None
        self._log, self._said = log, set[str]()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results, as plain values."""
        options = dataclasses.asdict(self.options)
        test = dataclasses.asdict(self.test)
        return {
            "weights": self.weights,
            "classes": list(self.classes.names),
            "colours": [*self.classes.colours],
            **{name: value for name, value in options.items() if name not in NEUTRAL},
            **{f"test.{name}": value for name, value in test.items() if name not in ("batch_size", "memory_budget")},
            **{
                f"data.{name}": getattr(self.data, name)
                for name in ("base_scale", "base_ratio", "antialias", "value_range")
            },
        }

    def key(self, item: Item) -> dict[str, Any]:
        """What the results of an item are made from; a run goes on from what another left only if it is the same."""
        return {**self.settings, "source": str(item), "bytes": item.size, "changed": item.changed}

    def load(self, item: Item) -> Loaded:
        """Read an image, or open it where it is read by region.

        Raises:
            ValueError: It is missing, broken or of another kind than the model takes.
        """
        image = self._open(item)
        if image is None:
            return Loaded(read_raster(item.source, self.data))
        if self._is_large(image):
            # the caller closes it
            return Loaded(image)
        with closing(image.raster) as raster:
            return Loaded(image[0, :, :, :], image.valid(0, raster.height), raster.georeference)

    def _open(self, item: Item) -> RegionImage | None:
        """An image of a file that can be read by region, which the caller closes; None: it is read whole."""
        if item.path is None:
            return None
        if not os.access(item.path, os.R_OK):
            raise ValueError("cannot be opened; restore the link's target or the permission")
        least = WHOLE if self.options.memory is None else 0
        raster = open_raster(item.path, channels=self.data.channels, least=least)
        if raster is None:
            return None
        with ExitStack() as opened:
            opened.callback(raster.close)
            image = RegionImage(raster, self.data, device=self.device)
            opened.pop_all()
        return image

    def _is_large(self, image: RegionImage) -> bool:
        """Whether an image is segmented by region rather than in memory."""
        return math.prod(image.shape[-2:]) > WHOLE or self.options.memory is not None

    def note(self, item: Item, loaded: Loaded) -> None:
        """Note scale and windows for the first image that each concerns, and a range unlike the model's."""
        image = loaded.image
        size = image.shape[-2], image.shape[-1]
        warning = self._windows and window_warning(self.data, self._windows, *size)
        if warning:
            self.say("windows", f"{item}: {warning}")
        elif "windows" not in self._said and (note := scale_note(self.data, *size)):
            self.say("scale", note)
        if isinstance(image, Tensor) and image.shape[-1] * image.shape[-2] > WHOLE:
            self.say(
                "large",
                f"{item}: {image.shape[-1] * image.shape[-2] / 1e6:.0f} megapixels are taken whole, whatever --memory "
                "says: only TIFF and zarr files are read by region",
            )
        if isinstance(image, Tensor) and self.options.seams:
            self.say("seams", f"{item}: --seams has no effect on images in memory; --memory reads TIFFs by region")
        if isinstance(image, Tensor) and image.is_floating_point():
            low, high = (float(value) for value in np.percentile(image[..., ::7, ::7].numpy(), (0.5, 99.5)))
            if high < NARROW or low > 1 - NARROW:
                black, white = self.data.value_range or (0, 65535)
                self.say(
                    "range",
                    f"{item}: nearly all values lie in {low:.3f} … {high:.3f} of the model's range, {black:g} … "
                    f"{white:g}, so that the image is nearly {'black' if high < NARROW else 'white'} to it; "
                    "spread its values over that range, or train with data.value_range as these images have it",
                )

    def say(self, key: str, text: str) -> None:
        """Write a note once."""
        if key not in self._said:
            self._said.add(key)
            self._log(text)

    def segment(self, images: Sequence[Loaded], predictor: Pipeline | None = None) -> list[Result]:
        """Segment images of one size in memory, by another predictor if one is given."""
        batch = torch.stack([each.image for each in images if isinstance(each.image, Tensor)]).to(self.device)
        with torch.inference_mode():
            (strip,) = (predictor or self.predictor).strips(batch, batch.shape[-2], measures=self.options.measures)
            prior = self.prior.labels(batch).cpu().numpy() if self.prior else None
        return [self._result(strip, prior, number, loaded) for number, loaded in enumerate(images)]

    def _result(self, strip: Any, prior: np.ndarray | None, number: int, loaded: Loaded) -> Result:
        labels, gaps = strip.labels[number].cpu().numpy(), loaded.valid is not None
        if loaded.valid is not None:
            labels = np.where(loaded.valid, labels, IGNORE).astype(np.uint8)
        maps: dict[str, Any] = {}
        for name in ("confidence", "entropy"):
            if (values := getattr(strip, name)) is not None:
                maps[name] = to_bytes(values[number])
        if strip.probabilities is not None:
            maps["probabilities"] = to_halves(strip.probabilities[number])
        if prior is not None:
            maps["prior"] = prior[number]
        if loaded.valid is not None:
            # nothing is known where there is no data
            for name, unknown in UNKNOWN.items():
                if name in maps:
                    maps[name] = np.where(loaded.valid, maps[name], unknown).astype(np.uint8)
        return Result(labels, shown(loaded), **maps, georeference=loaded.georeference, has_gaps=gaps)

    def save(self, item: Item, result: Result, began: float, more: dict[str, Any] | None = None) -> Line:
        """Write the files of an item, and return its line in the manifest."""
        path = self.sinks.write(item.name, result)
        height, width = result.labels.shape
        if self.submission:
            self.submission.write(item.name, torch.from_numpy(result.labels[:]), size=(height, width))
        found = shares(result.labels, self.classes)
        more = dict(more or {})
        if result.georeference is not None:
            try:
                from semask.inference.areas import class_areas
            except ImportError:
                self.say("areas", "for areas in square metres: pip install 'semask[geo]'")
            else:
                areas = class_areas(result.labels, result.georeference, self.classes.names)
                more |= {"areas_m2": areas} if areas else {}
        spent = round(time.perf_counter() - began, 3)
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        return Line(
            item.name, str(item), item.size, None, height, width, digest(files), found, spent, more, item.changed
        )

    def show_plan(self, item: Item) -> None:
        """Say how an item would be segmented, by its header where that has the size."""
        if isinstance(item.source, str):
            self._log(f"{item}: a video, frame by frame")
            return
        try:
            image = self._open(item)
            if image is not None:
                with closing(image.raster):
                    height, width = image.shape[-2:]
                    if self._is_large(image):
                        self.plan(item, image)
                        return
            else:
                try:
                    height, width = header_size(item.source)
                except ValueError:
                    # channels that Pillow does not have
                    height, width = read_raster(item.source, self.data).shape[-2:]
        except ValueError as error:
            self._log(f"{item}: {str(error).removeprefix(f'{item}: ')}")
        else:
            self._log(f"{item}: in memory, {height}×{width} px")

    def plan(self, item: Item, image: RegionImage) -> TilePlan:
        """Choose the windows of a raster, and say so, with an overlap that hides seams."""
        plan = plan_tiles(self.model, image, self.data, self.test, self.options)
        self._log(f"{item}: {plan}")
        overlap = min(w - s for w, s in zip(plan.test.window, plan.test.stride, strict=True))
        hint = overlap_hint(self.model, image, plan, self.data) if plan.windows > 16 else None
        if hint is not None and hint > overlap:
            strides = " ".join(str(max(1, side - hint)) for side in plan.test.window)
            flags = f"--test.mode sliding --test.window {' '.join(map(str, plan.test.window))} --test.stride {strides}"
            self._log(
                f"{item}: windows differ up to {hint // 2} px from their borders; an overlap of {hint} px ({flags})"
            )
        return plan

    def segment_raster(self, item: Item, image: RegionImage, advance: Callable[[int, int], None]) -> Line:
        """Segment a raster strip by strip and write its files; a run that was killed goes on where it ended.

        Once its line is in the manifest, `rows.remove_state` removes what it would go on from.
        """
        began = time.perf_counter()
        height, width = image.shape[-2:]
        store = RowStore(unfinished(self.options.out, item.name), (height, width), self.key(item))
        try:
            # windows depend on the memory that was free: those of an unfinished run stay
            earlier = store.notes.get("plan")
            plan = self.plan(item, image) if earlier is None else TilePlan.from_json(earlier)
            store.note(plan=plan.to_json())
            if store.done:
                self._log(f"{item}: goes on at row {store.done} of {height}")
            with torch.inference_mode():
                result, meter = segment_tiles(
                    self.model, image, plan, self.data, self.options, store=store, classes=self.classes,
                    advance=lambda rows: advance(rows, height),
                )  # fmt: skip
        finally:
            image.raster.close()
        # how the windows fit together
        overlaps = plan.test.window != plan.test.stride
        seams = {"windows_differ": meter.share if overlaps else None, "class_jumps": None if overlaps else meter.jump}
        more = {name: round(value, 5) for name, value in seams.items() if value is not None}
        if "windows_differ" in more:
            self._log(f"{item}: windows differ on {percent(meter.share)} % of the pixels that they share")
        elif "class_jumps" in more:
            self._log(f"{item}: no overlap; classes change {percent(meter.jump)} points oftener where windows meet")
        return self.save(item, result, began, more)
