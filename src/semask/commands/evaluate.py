"""`semask evaluate CHECKPOINT`: score a checkpoint on a data set's validation split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from semask.checkpoints.record import WEIGHTS, read_recipe
from semask.commands.flags import parse as parse_flags
from semask.recipes import DataRecipe, Recipe, TestRecipe
from semask.recipes.scale import scale_warning
from semask.whole_file import whole_file

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from semask.checkpoints.store import Bundle
    from semask.data.classes import Classes
    from semask.metrics import Scores

PROG = "semask evaluate CHECKPOINT"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Where an evaluation runs and writes."""

    out: Path | None = None
    """File for the scores; None is CHECKPOINT/metrics.json. A picture of the classes' IoU goes beside it, as .png."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; under torchrun each process takes its own."""
    workers: int = 2
    """Processes that read pictures; 0 reads in the evaluating process."""
    skip_check: bool = False
    """Do not read all labels before evaluating."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: how to run, and the recipe's data and test. Yes and no are written true and false in recipe fields."""

    run: Annotated[EvaluateOptions, tyro.conf.arg(name="")]
    data: Annotated[DataRecipe, tyro.conf.FlagConversionOff]
    test: Annotated[TestRecipe, tyro.conf.FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT [flags]`, whose flags begin at the checkpoint's own recipe, and evaluate."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        parse(Recipe(name="CHECKPOINT"), ["--help"])
    if arguments[0].startswith("-"):
        raise ValueError(f"the checkpoint's folder comes first: {PROG} [flags]; got {arguments[0]!r}")
    checkpoint = Path(arguments[0])
    recipe = read_recipe(checkpoint)
    settings = parse(recipe, arguments[1:])
    from semask.checkpoints import store

    recipe = dataclasses.replace(recipe, data=settings.data, test=settings.test)
    evaluate(checkpoint, store.load(checkpoint)._replace(recipe=recipe), settings.run)


def parse(recipe: Recipe, flags: Sequence[str]) -> Settings:
    """Return the flags over the recipe's data and test; --help and bad flags leave by SystemExit."""
    return parse_flags(
        Settings,
        flags,
        prog=PROG,
        description="Score a checkpoint on its data set's validation split; other data and protocols by flags.",
        default=Settings(run=EvaluateOptions(), data=recipe.data, test=recipe.test),
    )


def evaluate(checkpoint: Path, bundle: Bundle, options: EvaluateOptions) -> Scores:
    """Score a checkpoint by its recipe's data and test, print the classes and write the record.

    A ValueError says what is wrong with the data before anything is scored.
    """
    from rich.console import Console

    from semask.data.check import check_pairs
    from semask.data.dataset import classes_of
    from semask.device import describe, pick_device
    from semask.figures import class_bars

    recipe = bundle.recipe
    classes = classes_of(recipe.data)
    check_classes(bundle, classes)
    device = pick_device(options.device)
    with processes(device) as rank:
        console = Console(quiet=rank > 0, soft_wrap=True, highlight=False)
        if rank == 0 and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data, splits=(recipe.data.val_split,))
        warning = scale_warning(read_recipe(checkpoint).data, recipe.data, recipe.test)
        if rank == 0 and warning:
            logger.warning(warning)
        started = time.perf_counter()
        scores, images = _score(bundle, device, options.workers)
        seconds = time.perf_counter() - started
        if rank == 0:
            out = options.out or checkpoint / "metrics.json"
            replaces = ", in place of an earlier evaluation's (--out FILE keeps both)" if out.exists() else ""
            record = {
                "recipe": recipe.name,
                "checkpoint": {"path": str(checkpoint), "sha256": digest(checkpoint / WEIGHTS)},
                "scores": scores.to_dict(classes.names),
                "images": images,
                "protocol": {"data": dataclasses.asdict(recipe.data), "test": dataclasses.asdict(recipe.test)},
                "versions": versions(),
                "hardware": describe(device),
                "seconds": round(seconds, 2),
            }
            write_json(out, record)
            console.print(table(scores, classes.names))
            console.print(summary(scores, images))
            console.print(f"written to {out}{replaces}")
            if not math.isnan(scores.miou):
                bars = out.with_suffix(".png")
                class_bars(bars, scores, classes.names)
                console.print(f"classes as bars in {bars}")
    return scores


def _score(bundle: Bundle, device: torch.device, workers: int) -> tuple[Scores, int]:
    from rich.console import Console
    from rich.progress import Progress

    from semask.data.dataset import validation_set
    from semask.evaluation import evaluate_model, process_share
    from semask.inference import build_predictor

    model, recipe, _ = bundle
    samples = validation_set(recipe.data)
    share = len(process_share(len(samples)))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Evaluating", total=share)
        confusion = evaluate_model(
            build_predictor(model.to(device), recipe.test, recipe.data),
            samples,
            num_classes=recipe.model.num_classes,
            device=device,
            batch_size=recipe.test.batch_size,
            workers=workers,
            progress=lambda count: bar.advance(task, count),
        )
    return confusion.scores(), len(samples)


def check_classes(bundle: Bundle, classes: Classes) -> None:
    """Raise a ValueError unless the data set's classes are the checkpoint's, without regard to case and outer spaces.

    Published tables spell some names with a space at the end.
    """
    trained = bundle.recipe.model.num_classes
    if len(classes.names) != trained:
        raise ValueError(
            f"the checkpoint knows {trained} classes, the data set has {len(classes.names)}; give the class table it "
            "was trained with by --data.classes"
        )
    known = bundle.classes.names if bundle.classes is not None else classes.names
    for index, (ours, theirs) in enumerate(zip(known, classes.names, strict=True)):
        if ours.strip().casefold() != theirs.strip().casefold():
            raise ValueError(
                f"class {index} is {ours!r} in the checkpoint and {theirs!r} in the data set; give the class table it "
                "was trained with by --data.classes"
            )


@contextmanager
def processes(device: torch.device) -> Iterator[int]:
    """Join the processes that torchrun started, and yield this one's rank; alone, yield 0."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


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
        grid.add_row(name, *(_percent(value) for value in values))
    return grid


def summary(scores: Scores, images: int) -> str:
    """Return the means in a line."""
    means = (scores.miou, scores.macc, scores.aacc)
    return "mIoU {}  mAcc {}  aAcc {}  over {} images".format(*map(_percent, means), images)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that scores may depend on."""
    import platform
    from importlib.metadata import version

    import torch

    packages = {name: version(name) for name in ("semask", "torchvision", "timm")}
    return {"python": platform.python_version(), "torch": torch.__version__, **packages}


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all; numbers that JSON has no name for are refused."""
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.2f}"  # noqa: PLR0124 — nan alone differs from itself
