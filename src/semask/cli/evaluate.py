"""`semask evaluate CHECKPOINT`: score a checkpoint on a split of a data set, for validation or another."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagConversionOff, arg

from semask.checkpoints.record import read_recipe
from semask.cli.flags import check_record, parse_over
from semask.cli.scoring import FIRST, TESTED, begin, check_classes, folder_of, origin, processes, with_own_classes
from semask.data.holdout import FEW
from semask.recipes import DataRecipe, TestRecipe
from semask.recipes.protocols import name_of, what_is_seen, with_protocol
from semask.text import Progress, Table, console, percent, pluralize

if TYPE_CHECKING:
    import numpy as np
    import torch

    from semask.checkpoints.store import Bundle
    from semask.data.classes import Classes
    from semask.data.dataset import ValidationFiles, ValidationScenes
    from semask.evaluation import Measures, MetricAccumulator
    from semask.evaluation.metrics import Scores
    from semask.inference import Pipeline
    from semask.visualization.pages.images import GalleryImage

USAGE = "semask evaluate CHECKPOINT"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Device, files and measures of an evaluation."""

    protocol: str | None = None
    """A paper's protocol: semask-ss, semask-ms, segmenter-ss, segmenter-ms, mask2former-ss or mask2former-ms, where
    ss is one scale and ms several with flips. --data and --test flags go beyond it; None is the checkpoint's own."""
    split: str | None = None
    """Name of the split to score, such as test: a folder of images, or a list of stems; None is the recipe's validation
    split."""
    out: Path | None = None
    """File for the scores; None is CHECKPOINT/metrics.json. Beside it go the counts of every image (.npz), a page
    (.html), and a figure of the classes' IoU (.png)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; under torchrun each process takes its own."""
    workers: int = 2
    """Number of processes that read images; 0 reads in the evaluating process."""
    skip_check: bool = False
    """Do not read all labels before evaluating."""
    boundary: bool = True
    """Measure boundary IoU and F-score."""
    areas: tuple[int, ...] = (1024, 9216)
    """Limits between small, medium and large objects [px]: connected regions of a class in the truth. The definition
    behind Segmenter's Table 4 was never published; these are COCO's limits."""
    bins: int = 15
    """Bins of the reliability diagram; 0 measures no calibration."""
    resamples: int = 1000
    """Number of resamples of the images, for 95 % intervals; 0 makes no intervals."""
    seed: int = 0
    """Random seed of the resamples."""
    gallery: int = 3
    """Number of images each of the best, the median and the worst on the page; 0 shows none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: options, and the recipe's data and test, whose booleans are written true and false."""

    run: Annotated[EvaluateOptions, arg(name=""), FlagConversionOff] = dataclasses.field(
        default_factory=EvaluateOptions
    )
    data: Annotated[DataRecipe, FlagConversionOff]
    test: Annotated[TestRecipe, FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT [flags]`, whose flags start at the checkpoint's own recipe, and evaluate."""
    checkpoint, recipe, flags = begin(arguments, usage=USAGE)
    given: dict[str, Any] = {
        "prog": USAGE,
        "description": "Score a checkpoint on a split of its data set; flags set other data and protocols.",
        "first": FIRST,
        "data": TESTED,
    }
    settings, chosen = parse_over(Settings, recipe, flags, **given)
    if settings.run.protocol is not None:
        # once more, since the flags now start at the protocol's data and test
        settings, chosen = parse_over(Settings, with_protocol(recipe, settings.run.protocol), flags, **given)
    from semask.checkpoints import store

    evaluate(checkpoint, store.load(checkpoint)._replace(recipe=chosen), settings.run)


def evaluate(checkpoint: Path, bundle: Bundle, options: EvaluateOptions) -> Scores:
    """Score a checkpoint by its recipe's data and test, write the record, print the classes and write a page.

    Raises:
        ValueError: data, flags or classes do not fit; nothing is scored then.
    """
    from semask.data.checks.check import check_pairs
    from semask.data.dataset import classes_of, validation_set
    from semask.evaluation import evaluate_model, process_share
    from semask.evaluation.record import NAME, arrays, measured, write_record
    from semask.evaluation.summary import advice
    from semask.inference import build_predictor
    from semask.inference.from_recipe import scale_note, scale_warning
    from semask.ops.device import pick_device

    # refuse wrong input before hours of scoring
    bundle = with_own_classes(checkpoint, bundle)
    recipe = bundle.recipe
    assert recipe is not None
    out = options.out or folder_of(checkpoint) / NAME
    check_record(out)
    measures = _measures(bundle.model, options)
    classes = classes_of(recipe.data)
    check_classes(bundle, classes)
    device = pick_device(options.device)
    with processes(device) as rank:
        screen = console(quiet=rank > 0)
        predictor = build_predictor(bundle.model.to(device), recipe.test, recipe.data)
        # one process checks, all of them count
        if rank == 0 and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data, splits=(options.split or recipe.data.val_split,))
            screen.print(classes.describe())
        # training at another scale is the usual reason for a low score
        warning = scale_warning(read_recipe(checkpoint).data, recipe.data, recipe.test)
        if rank == 0 and warning:
            logger.warning(warning)
        samples = validation_set(recipe.data, options.split)
        height, width = samples[0].label.shape
        if note := scale_note(recipe.data, height, width):
            screen.print(note)
        started = time.perf_counter()
        # confusion matrices, counts of every image, outlines, calibration
        with Progress("evaluating", len(process_share(len(samples)))) as bar:
            accumulator = evaluate_model(
                predictor,
                samples,
                num_classes=recipe.model.num_classes,
                device=device,
                batch_size=recipe.test.batch_size,
                workers=options.workers,
                measures=measures,
                progress=bar.advance,
            )
        seconds = time.perf_counter() - started
        scores = accumulator.scores()
        if rank == 0:
            collapse = advice(accumulator.confusion.matrix, classes.names, recipe)
            record = {
                **origin(checkpoint, recipe, options.split, len(accumulator.images), device),
                "images": len(accumulator.images),
                **measured(accumulator, classes.names, resamples=options.resamples, seed=options.seed),
                "advice": collapse,
                "protocol": {
                    "name": name_of(recipe),
                    "seen": what_is_seen(recipe.data, recipe.test),
                    "data": dataclasses.asdict(recipe.data),
                    "test": dataclasses.asdict(recipe.test),
                },
                "seed": options.seed,
                "seconds": round(seconds, 2),
            }
            # written before anything is printed or drawn
            counts = arrays(accumulator)
            replaces = ", in place of an earlier evaluation's (--out FILE keeps both)" if out.exists() else ""
            write_record(out, record, counts)
            screen.print(table(scores, classes.names).rich())
            screen.print(summary(record))
            if collapse:
                logger.warning(collapse)
            screen.print(f"written to {out}{replaces}")
            # best, median and worst images for the page
            images = _gallery(samples, predictor, accumulator, options.gallery, device)
            _draw(out, record, counts, scores, classes, images, screen=screen)
    return scores


def _measures(model: Any, options: EvaluateOptions) -> Measures:
    """What is counted; a file that gives labels alone has no calibration.

    Raises:
        ValueError: A value is out of range, which is found out before the evaluation.
    """
    from semask.evaluation import Measures
    from semask.evaluation.metrics.calibration import Calibration
    from semask.evaluation.metrics.sizes import SizeConfusions

    if options.areas:
        SizeConfusions(1, areas=options.areas)
    bins = 0 if getattr(model, "labels_only", False) else options.bins
    if bins:
        Calibration(bins)
    elif options.bins:
        logger.warning("no calibration: this file gives no probabilities (semask export --output raw)")
    return Measures(boundary=options.boundary, areas=options.areas, bins=bins)


def _gallery(
    samples: ValidationFiles | ValidationScenes,
    predictor: Pipeline,
    accumulator: MetricAccumulator,
    count: int,
    device: torch.device,
) -> list[GalleryImage]:
    """Segment the images of the page once more: the evaluation keeps no label maps."""
    import torch

    from semask.data.readers.raster import as_rgb
    from semask.visualization.pages.images import GalleryImage, choose

    # counts of images are sorted by name, the samples are not
    names, miou, shown = sorted(accumulator.images), accumulator.image_counts().miou(), []
    places = {samples.name(index): index for index in range(len(samples))}
    for index, title in choose(miou, count):
        image, label, name = samples[places[names[index]]]
        with torch.inference_mode():
            prediction = predictor.labels(image[None].to(device))[0].cpu()
        shown.append(GalleryImage(title, name, float(miou[index]), as_rgb(image), label, prediction))
    return shown


def _draw(
    out: Path,
    record: dict[str, Any],
    counts: Mapping[str, np.ndarray],
    scores: Scores,
    classes: Classes,
    images: Sequence[GalleryImage],
    *,
    screen: Any,
) -> None:
    """Write the figure and the page beside a record."""
    from semask.visualization.figures import class_bars
    from semask.visualization.pages.evaluation import write_evaluation_page

    bars, page = out.with_suffix(".png"), out.with_suffix(".html")
    if math.isnan(scores.miou):
        # no class has a score; the figure of an earlier evaluation would be taken for this one's
        bars.unlink(missing_ok=True)
    else:
        class_bars(bars, scores, classes.names)
        screen.print(f"classes as bars in {bars}")
    write_evaluation_page(page, record, counts, images, classes=classes)
    screen.print(f"page of all results in {page}")


def table(scores: Scores, names: Sequence[str]) -> Table:
    """IoU, accuracy and share of the labelled pixels of every class; – is undefined."""
    shares = scores.pixels / max(1, int(scores.pixels.sum()))
    values = zip(names, *(column.tolist() for column in (scores.iou, scores.accuracy, shares)), strict=True)
    rows = [(name, *map(percent, numbers)) for name, *numbers in values]
    return Table(("class", "IoU %", "accuracy %", "pixels %"), rows)


def summary(record: dict[str, Any]) -> str:
    """The means in a line, the mIoU with its interval; a second line on one of too few images."""
    scores, ends, images = record["scores"], record.get("intervals", {}).get("miou"), record["images"]
    between = "" if ends is None else " [{}, {}]".format(*map(percent, ends))
    # means that every evaluation has, then optional ones
    parts = [
        f"mIoU {percent(scores['miou'])}{between}",
        f"mAcc {percent(scores['macc'])}",
        f"aAcc {percent(scores['aacc'])}",
    ]
    if "boundary_iou" in scores:
        parts.append(f"boundary IoU {percent(scores['boundary_iou'])}")
    if "calibration" in record:
        parts.append(f"ECE {percent(record['calibration']['ece'])}")
    line = f"{'  '.join(parts)}  over {pluralize(images, 'image')}"
    if "intervals" not in record or images >= FEW:
        return line
    # resamples of one image are that image, and of few are nearly alike
    reason = "an interval needs at least 2 images" if images < 2 else f"the interval over {images} images is too narrow"
    return f"{line}\n{reason}; score {FEW} or more"
