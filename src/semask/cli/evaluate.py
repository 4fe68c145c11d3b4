"""`semask evaluate CHECKPOINT`: score a checkpoint on a data set's validation split."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from semask.checkpoints.record import WEIGHTS, read_recipe
from semask.cli.flags import check_json
from semask.cli.flags import parse as parse_flags
from semask.cli.setup import begin, check_classes, digest, hardware, processes, versions
from semask.files import check_writable
from semask.inference.scale_check import scale_warning
from semask.recipes import DataRecipe, Recipe, TestRecipe
from semask.recipes.protocols import name_of, what_is_seen, with_protocol
from semask.text import percent

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from semask.checkpoints.store import Bundle
    from semask.data.classes import Classes
    from semask.data.dataset import ValidationFiles, ValidationScenes
    from semask.evaluation import Tally
    from semask.evaluation.metrics import Scores
    from semask.inference import Predictor
    from semask.visualization.pages.gallery import GalleryPicture

    Validation = ValidationFiles | ValidationScenes

PROG = "semask evaluate CHECKPOINT"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Where an evaluation runs and writes, and what it measures."""

    protocol: str | None = None
    """A paper's protocol: semask-ss, semask-ms, segmenter-ss, segmenter-ms, mask2former-ss or mask2former-ms, where
    ss is one scale and ms several with flips. --data and --test flags go beyond it; None is the checkpoint's own."""
    out: Path | None = None
    """File for the scores; None is CHECKPOINT/metrics.json. Beside it go the counts of every image (.npz), a page
    (.html), and a picture of the classes' IoU (.png)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; under torchrun each process takes its own."""
    workers: int = 2
    """Processes that read pictures; 0 reads in the evaluating process."""
    skip_check: bool = False
    """Do not read all labels before evaluating."""
    boundary: bool = True
    """Measure boundary IoU and F-score."""
    areas: tuple[int, ...] = (1024, 9216)
    """Limits between small, medium and large objects [px]: connected regions of a class in the truth. The definition
    behind Segmenter's Table 4 was never published; these are COCO's limits."""
    bins: int = 15
    """Of the reliability diagram; 0 measures no calibration."""
    resamples: int = 1000
    """Of the images, for 95 % intervals; 0 makes none."""
    seed: int = 0
    """Of the resamples."""
    gallery: int = 3
    """Pictures each of the best, the median and the worst on the page; 0 shows none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: how to run, and the recipe's data and test. Yes and no are written true and false in recipe fields."""

    run: Annotated[EvaluateOptions, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    data: Annotated[DataRecipe, tyro.conf.FlagConversionOff]
    test: Annotated[TestRecipe, tyro.conf.FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT [flags]`, whose flags begin at the checkpoint's own recipe, and evaluate."""
    checkpoint, recipe, flags = begin(arguments, prog=PROG)
    settings = parse(recipe, flags)
    from semask.checkpoints import store

    recipe = dataclasses.replace(recipe, data=settings.data, test=settings.test)
    evaluate(checkpoint, store.load(checkpoint)._replace(recipe=recipe), settings.run)


def parse(recipe: Recipe, flags: Sequence[str]) -> Settings:
    """Return the flags over the recipe's data and test, or over the protocol's that they name.

    --help and bad flags leave by SystemExit.
    """

    def over(base: Recipe) -> Settings:
        return parse_flags(
            Settings,
            flags,
            prog=PROG,
            description="Score a checkpoint on its data set's validation split; other data and protocols by flags.",
            default=Settings(run=EvaluateOptions(), data=base.data, test=base.test),
        )

    settings = over(recipe)
    protocol = settings.run.protocol
    return settings if protocol is None else over(with_protocol(recipe, protocol))


def evaluate(checkpoint: Path, bundle: Bundle, options: EvaluateOptions) -> Scores:
    """Score a checkpoint by its recipe's data and test, print the classes and write the record and its page.

    A ValueError says what is wrong with the data or the flags before anything is scored.
    """
    from rich.console import Console

    from semask.data.checks.check import check_pairs
    from semask.data.dataset import classes_of, validation_set
    from semask.inference import build_predictor
    from semask.ops.device import pick_device

    recipe = bundle.recipe
    _check_options(options)
    check_writable((options.out or checkpoint / WEIGHTS).parent)
    classes = classes_of(recipe.data)
    check_classes(bundle, classes)
    device = pick_device(options.device)
    with processes(device) as rank:
        # Names of classes and folders are told as they are.
        console = Console(quiet=rank > 0, soft_wrap=True, highlight=False, markup=False, emoji=False)
        predictor = build_predictor(bundle.model.to(device), recipe.test, recipe.data)
        if rank == 0 and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data, splits=(recipe.data.val_split,))
            console.print(classes.told())
        warning = scale_warning(read_recipe(checkpoint).data, recipe.data, recipe.test)
        if rank == 0 and warning:
            logger.warning(warning)
        samples = validation_set(recipe.data)
        started = time.perf_counter()
        tally = _count(recipe, samples, predictor, device, options)
        seconds = time.perf_counter() - started
        scores = tally.scores()
        if rank == 0:
            console.print(table(scores, classes.names))
            record = _record(checkpoint, recipe, tally, classes, options)
            record |= {"hardware": hardware(device), "seconds": round(seconds, 2)}
            console.print(summary(record))
            pictures = _gallery(samples, predictor, tally, options.gallery, device)
            _write(checkpoint, options, record, tally, classes, pictures, console=console)
    return scores


def _check_options(options: EvaluateOptions) -> None:
    """Refuse what could only be refused after everything was scored."""
    from semask.evaluation.metrics.calibration import Calibration
    from semask.evaluation.metrics.sizes import SizeConfusions

    check_json(options.out)
    if options.areas:
        SizeConfusions(1, areas=options.areas)
    if options.bins:
        Calibration(options.bins)
    for name in ("resamples", "gallery", "workers", "seed"):
        if (value := getattr(options, name)) < 0:
            raise ValueError(f"--{name} counts from 0 and cannot be negative, got {value}")


def _count(
    recipe: Recipe, samples: Validation, predictor: Predictor, device: torch.device, options: EvaluateOptions
) -> Tally:
    from rich.console import Console
    from rich.progress import Progress

    from semask.evaluation import Measures, evaluate_model, process_share

    share = len(process_share(len(samples)))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Evaluating", total=share)
        return evaluate_model(
            predictor,
            samples,
            num_classes=recipe.model.num_classes,
            device=device,
            batch_size=recipe.test.batch_size,
            workers=options.workers,
            measures=Measures(boundary=options.boundary, areas=options.areas, bins=options.bins),
            progress=lambda count: bar.advance(task, count),
        )


def _record(
    checkpoint: Path, recipe: Recipe, tally: Tally, classes: Classes, options: EvaluateOptions
) -> dict[str, Any]:
    from semask.data.checks.digest import digest_split
    from semask.evaluation.record import measured

    return {
        "recipe": recipe.name,
        "checkpoint": {"path": str(checkpoint), "sha256": digest(checkpoint / WEIGHTS)},
        "data": {
            "split": recipe.data.val_split,
            "images": len(tally.images),
            "sha256": digest_split(recipe.data, recipe.data.val_split),
        },
        "images": len(tally.images),
        **measured(tally, classes.names, resamples=options.resamples, seed=options.seed),
        "protocol": {
            "name": name_of(recipe),
            "seen": what_is_seen(recipe.data, recipe.test),
            "data": dataclasses.asdict(recipe.data),
            "test": dataclasses.asdict(recipe.test),
        },
        "seed": options.seed,
        "versions": versions(),
    }


def _gallery(
    samples: Validation, predictor: Predictor, tally: Tally, count: int, device: torch.device
) -> list[GalleryPicture]:
    """Segment once more the pictures that the page shows: none were kept."""
    import torch

    from semask.data.readers.raster import as_rgb
    from semask.evaluation.counts import image_scores
    from semask.evaluation.gallery import choose
    from semask.visualization.pages.gallery import GalleryPicture

    names, shown = tally.names(), []
    places = {samples.name(index): index for index in range(len(samples))}
    for chosen in choose(image_scores(tally.image_counts()), count):
        image, label, name = samples[places[names[chosen.place]]]
        with torch.inference_mode():
            prediction = predictor.labels(image[None].to(device))[0].cpu()
        shown.append(GalleryPicture(chosen.title, name, chosen.miou, as_rgb(image), label, prediction))
    return shown


def _write(
    checkpoint: Path,
    options: EvaluateOptions,
    record: dict[str, Any],
    tally: Tally,
    classes: Classes,
    pictures: Sequence[GalleryPicture],
    *,
    console: Any,
) -> None:
    from semask.evaluation.record import NAME, arrays, write_record
    from semask.visualization.figures import class_bars
    from semask.visualization.pages.evaluation import write_evaluation_page

    out = options.out or checkpoint / NAME
    replaces = ", in place of an earlier evaluation's (--out FILE keeps both)" if out.exists() else ""
    tables = arrays(tally)
    write_record(out, record, tables)
    console.print(f"written to {out}{replaces}")
    scores, bars = tally.scores(), out.with_suffix(".png")
    if math.isnan(scores.miou):
        bars.unlink(missing_ok=True)  # an earlier evaluation's would be taken for this one's
    else:
        class_bars(bars, scores, classes.names)
        console.print(f"classes as bars in {bars}")
    write_evaluation_page(out.with_suffix(".html"), record, tables, pictures, classes=classes)
    console.print(f"all of it as a page in {out.with_suffix('.html')}")


def table(scores: Scores, names: Sequence[str]) -> Table:
    """Return IoU, accuracy and share of the labelled pixels of every class as a table; – is undefined."""
    from rich.table import Table

    grid = Table()
    grid.add_column("class", no_wrap=True)
    for title in ("IoU %", "accuracy %", "pixels %"):
        grid.add_column(title, justify="right")
    total = max(1, int(scores.pixels.sum()))
    columns = (scores.iou, scores.accuracy, scores.pixels / total)
    for name, *values in zip(names, *(column.tolist() for column in columns), strict=True):
        grid.add_row(name, *(percent(value) for value in values))
    return grid


def summary(record: dict[str, Any]) -> str:
    """Return the means in a line, the mIoU with its interval."""
    scores = record["scores"]
    reach = record.get("intervals", {}).get("miou")
    between = "" if reach is None else " [{}, {}]".format(*map(percent, reach))
    told = [
        f"mIoU {percent(scores['miou'])}{between}",
        f"mAcc {percent(scores['macc'])}",
        f"aAcc {percent(scores['aacc'])}",
    ]
    if "boundary_iou" in scores:
        told.append(f"boundary IoU {percent(scores['boundary_iou'])}")
    if "calibration" in record:
        told.append(f"ECE {percent(record['calibration']['ece'])}")
    return f"{'  '.join(told)}  over {record['images']} images"
