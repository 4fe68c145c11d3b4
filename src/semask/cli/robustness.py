"""`semask robustness CHECKPOINT`: score a checkpoint on images corrupted by noise, blur, weather and files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagConversionOff, arg

from semask.cli.flags import check_record, parse_over
from semask.cli.scoring import FIRST, TESTED, begin, check_classes, folder_of, origin, processes, with_own_classes
from semask.files import write_json, write_text
from semask.recipes import DataRecipe, TestRecipe
from semask.text import Progress, Table, console, percent

if TYPE_CHECKING:
    import torch

    from semask.checkpoints.store import Bundle
    from semask.evaluation.robustness import Robustness

USAGE = "semask robustness CHECKPOINT"
NAME = "robustness.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessOptions:
    """Corruptions, images and files of a measurement."""

    corruptions: tuple[str, ...] | None = None
    """Names of ImageNet-C's corruptions, such as fog snow, or kinds: noise, blur, weather, digital; None takes all."""
    strengths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Strengths of the corruptions, from 1 to 5."""
    split: str | None = None
    """Name of the split to score, such as test; None is the recipe's validation split."""
    images: int | None = None
    """Number of images, spread evenly over the split; None uses all. All corruptions cost 75 evaluations."""
    seed: int = 0
    """Random seed of the corruptions; an image of one name is corrupted alike in every run."""
    out: Path | None = None
    """File for the scores; None is CHECKPOINT/robustness.json. A table goes beside it, as .md."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; under torchrun each process takes its own."""
    workers: int = 2
    """Number of processes that read and corrupt images; 0 does so in the evaluating process."""
    skip_check: bool = False
    """Do not read all labels before evaluating."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: options, and the recipe's data and test, whose booleans are written true and false."""

    run: Annotated[RobustnessOptions, arg(name="")] = dataclasses.field(default_factory=RobustnessOptions)
    data: Annotated[DataRecipe, FlagConversionOff]
    test: Annotated[TestRecipe, FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT [flags]`, whose flags start at the checkpoint's own recipe, and evaluate."""
    checkpoint, recipe, flags = begin(arguments, usage=USAGE)
    description = "Score a checkpoint on a split of its data set, clean and under the corruptions of ImageNet-C."
    options: dict[str, Any] = {"prog": USAGE, "description": description, "first": FIRST, "data": TESTED}
    settings, recipe = parse_over(Settings, recipe, flags, **options)
    from semask.checkpoints import store

    robustness(checkpoint, store.load(checkpoint)._replace(recipe=recipe), settings.run)


def robustness(checkpoint: Path, bundle: Bundle, options: RobustnessOptions) -> Robustness:
    """Score a checkpoint on clean and on corrupted images, write the record and a table, and print it.

    Raises:
        ValueError: data, options or classes do not fit; nothing is scored then.
    """
    from semask.data.checks.check import check_pairs
    from semask.data.dataset import classes_of
    from semask.evaluation.robustness import check_choice
    from semask.ops.device import pick_device

    # refuse wrong input before hours of scoring
    bundle = with_own_classes(checkpoint, bundle)
    recipe, out = bundle.recipe, options.out or folder_of(checkpoint) / NAME
    assert recipe is not None
    check_record(out)
    check_choice(named(options.corruptions), options.strengths)
    # the corruptions are defined for RGB images
    if recipe.data.channels != 3:
        raise ValueError(f"corruptions are for images of 3 channels, and data.channels is {recipe.data.channels}")
    check_classes(bundle, classes_of(recipe.data))
    device = pick_device(options.device)
    # one process checks and writes, all of them score
    with processes(device) as rank:
        if rank == 0 and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data, splits=(options.split or recipe.data.val_split,))
        started = time.perf_counter()
        found, images = _measure(bundle, device, options)
        if rank == 0:
            record = {
                **origin(checkpoint, recipe, options.split, images, device),
                "seed": options.seed,
                **found.to_dict(),
                "protocol": {"data": dataclasses.asdict(recipe.data), "test": dataclasses.asdict(recipe.test)},
                "seconds": round(time.perf_counter() - started, 2),
            }
            # the table first: the record alone means a finished evaluation
            write_text(out.with_suffix(".md"), markdown(found))
            write_json(out, record)
            screen = console()
            screen.print(table(found).rich())
            screen.print(f"written to {out}, as a table to {out.with_suffix('.md')}")
    return found


def _measure(bundle: Bundle, device: torch.device, options: RobustnessOptions) -> tuple[Robustness, int]:
    """The scores and the number of images."""
    from semask.data.dataset import validation_set
    from semask.evaluation import Measures, Samples, evaluate_model, process_share
    from semask.evaluation.robustness import measure_robustness, spread_out
    from semask.inference import build_predictor

    model, recipe, _ = bundle
    assert recipe is not None
    samples = validation_set(recipe.data, options.split)
    corruptions = named(options.corruptions)
    count = len(spread_out(len(samples), options.images))
    # one predictor and one progress bar for all corruptions
    predictor = build_predictor(model.to(device), recipe.test, recipe.data)
    # the clean images, then each corruption at each strength
    runs = 1 + len(corruptions) * len(options.strengths)
    with Progress("evaluating", len(process_share(count)) * runs) as bar:

        def evaluate(corrupted: Samples) -> float:
            accumulator = evaluate_model(
                predictor,
                corrupted,
                num_classes=recipe.model.num_classes,
                device=device,
                batch_size=recipe.test.batch_size,
                workers=options.workers,
                measures=Measures(boundary=False, areas=(), bins=0),
                progress=bar.advance,
            )
            return accumulator.scores().miou

        found = measure_robustness(
            evaluate,
            samples,
            corruptions=corruptions,
            strengths=options.strengths,
            images=options.images,
            seed=options.seed,
        )
    return found, count


def named(corruptions: Sequence[str] | None) -> tuple[str, ...]:
    """The corruptions of these names and kinds; None means all."""
    from semask.data.corruptions import CORRUPTIONS, KINDS

    if corruptions is None:
        return CORRUPTIONS
    # the members of a kind, each corruption once, in the order of the flags
    return tuple(dict.fromkeys(member for name in corruptions for member in KINDS.get(name, (name,))))


def table(found: Robustness) -> Table:
    """Table of the mIoU of corruptions by strength, with mean and loss, and the means of kinds and of all."""
    from semask.data.corruptions import KINDS

    means = found.by_corruption()
    rows: list[tuple[str, ...]] = []

    def add(name: str, values: Sequence[str], mean: float) -> None:
        rows.append((name, *values, percent(mean), percent(found.degradation(mean))))

    blank = [""] * len(found.strengths)
    # corruptions kind by kind, with the mean of each kind
    for kind, mean in found.by_kind().items():
        for name in KINDS[kind]:
            if name in means:
                add(name.replace("_", " "), [percent(value) for value in found.miou[name]], means[name])
        add(f"all {kind}", blank, mean)
        rows.append(())
    add("all", blank, found.mean())
    columns = ("corruption", *(f"strength {each}" for each in found.strengths), "mean", "lost of clean %")
    return Table(columns, rows, title=f"clean mIoU {percent(found.clean)} %")


def markdown(found: Robustness) -> str:
    """The table for a document."""
    return f"mIoU [%] on corrupted images; {percent(found.clean)} on clean ones.\n\n{table(found).markdown()}"
