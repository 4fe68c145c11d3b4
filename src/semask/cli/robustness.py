"""`semask robustness CHECKPOINT`: score a checkpoint on pictures corrupted by noise, blur, weather and files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from semask.checkpoints.record import WEIGHTS
from semask.cli.flags import check_json
from semask.cli.flags import parse as parse_flags
from semask.cli.setup import begin, check_classes, digest, hardware, processes, versions
from semask.files import check_writable, whole_file, write_json
from semask.recipes import DataRecipe, Recipe, TestRecipe
from semask.text import percent

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from semask.checkpoints.store import Bundle
    from semask.evaluation.robustness import Robustness

PROG = "semask robustness CHECKPOINT"
NAME = "robustness.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessOptions:
    """Which corruptions, on which pictures, and where the scores go."""

    corruptions: tuple[str, ...] | None = None
    """Names of ImageNet-C's corruptions, such as fog snow, or of their kinds: noise, blur, weather, digital. None takes
    all fifteen."""
    strengths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of the corruptions, from 1 to 5."""
    images: int | None = None
    """Use so many pictures, spread evenly over the split; None uses all. All corruptions cost 75 evaluations."""
    seed: int = 0
    """Of what is random in corruptions; pictures of one name are corrupted alike in every run."""
    out: Path | None = None
    """File for the scores; None is CHECKPOINT/robustness.json. A table goes beside it, as .md."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; under torchrun each process takes its own."""
    workers: int = 2
    """Processes that read and corrupt pictures; 0 does so in the evaluating process."""
    skip_check: bool = False
    """Do not read all labels before evaluating."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: how to run, and the recipe's data and test. Yes and no are written true and false in recipe fields."""

    run: Annotated[RobustnessOptions, tyro.conf.arg(name="")]
    data: Annotated[DataRecipe, tyro.conf.FlagConversionOff]
    test: Annotated[TestRecipe, tyro.conf.FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT [flags]`, whose flags begin at the checkpoint's own recipe, and evaluate."""
    checkpoint, recipe, flags = begin(arguments, prog=PROG)
    settings = parse(recipe, flags)
    from semask.checkpoints import store

    recipe = dataclasses.replace(recipe, data=settings.data, test=settings.test)
    robustness(checkpoint, store.load(checkpoint)._replace(recipe=recipe), settings.run)


def parse(recipe: Recipe, flags: Sequence[str]) -> Settings:
    """Return the flags over the recipe's data and test; --help and bad flags leave by SystemExit."""
    return parse_flags(
        Settings,
        flags,
        prog=PROG,
        description="Score a checkpoint on its validation split as it is and under the corruptions of ImageNet-C.",
        default=Settings(run=RobustnessOptions(), data=recipe.data, test=recipe.test),
    )


def robustness(checkpoint: Path, bundle: Bundle, options: RobustnessOptions) -> Robustness:
    """Score a checkpoint on clean and on corrupted pictures, print a table and write it and the record.

    A ValueError says what is wrong with the data or the options before anything is scored.
    """
    from rich.console import Console

    from semask.data.checks.check import check_pairs
    from semask.data.checks.digest import digest_split
    from semask.data.dataset import classes_of
    from semask.evaluation.robustness import check_choice
    from semask.ops.device import pick_device

    recipe = bundle.recipe
    check_json(options.out)
    check_writable((options.out or checkpoint / NAME).parent)
    check_choice(named(options.corruptions), options.strengths)
    if recipe.data.channels != 3:
        raise ValueError(
            f"corruptions are of pictures in colour, and these have {recipe.data.channels} channels (data.channels)"
        )
    check_classes(bundle, classes_of(recipe.data))
    device = pick_device(options.device)
    with processes(device) as rank:
        if rank == 0 and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data, splits=(recipe.data.val_split,))
        started = time.perf_counter()
        found, images = _measure(bundle, device, options)
        if rank == 0:
            record = {
                "recipe": recipe.name,
                "checkpoint": {"path": str(checkpoint), "sha256": digest(checkpoint / WEIGHTS)},
                "data": {
                    "split": recipe.data.val_split,
                    "images": images,
                    "sha256": digest_split(recipe.data, recipe.data.val_split),
                },
                "seed": options.seed,
                **found.to_dict(),
                "protocol": {"data": dataclasses.asdict(recipe.data), "test": dataclasses.asdict(recipe.test)},
                "versions": versions(),
                "hardware": hardware(device),
                "seconds": round(time.perf_counter() - started, 2),
            }
            Console().print(table(found))
            _write(options.out or checkpoint / NAME, record, found)
    return found


def _measure(bundle: Bundle, device: torch.device, options: RobustnessOptions) -> tuple[Robustness, int]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from semask.data.dataset import validation_set
    from semask.evaluation import Measures, Samples, evaluate_model, process_share
    from semask.evaluation.robustness import measure_robustness, spread_out
    from semask.inference import build_predictor

    model, recipe, _ = bundle
    samples = validation_set(recipe.data)
    corruptions = named(options.corruptions)
    count = len(spread_out(len(samples), options.images))
    predictor = build_predictor(model.to(device), recipe.test, recipe.data)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        runs = 1 + len(corruptions) * len(options.strengths)
        task = bar.add_task("Evaluating", total=len(process_share(count)) * runs)

        def evaluate(corrupted: Samples) -> float:
            tally = evaluate_model(
                predictor,
                corrupted,
                num_classes=recipe.model.num_classes,
                device=device,
                batch_size=recipe.test.batch_size,
                workers=options.workers,
                measures=Measures(boundary=False, areas=(), bins=0),
                progress=lambda done: bar.advance(task, done),
            )
            return tally.scores().miou

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
    """Return the corruptions that are meant, kinds by their members; None means all."""
    from semask.data.corruptions import CORRUPTIONS, KINDS

    if corruptions is None:
        return CORRUPTIONS
    return tuple(dict.fromkeys(member for name in corruptions for member in KINDS.get(name, (name,))))


def table(found: Robustness) -> Table:
    """Return the mIoU of every corruption by strength, their means, and what is lost of the clean one."""
    from rich.table import Table

    heads, rows = _cells(found)
    grid = Table(title=f"clean mIoU {percent(found.clean)} %")
    grid.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        grid.add_column(head, justify="right")
    for name, *values in rows:
        grid.add_row(name, *values)
    return grid


def markdown(found: Robustness) -> str:
    """Return the same table for a document."""
    heads, rows = _cells(found)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    told = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"mIoU [%] on corrupted pictures; {percent(found.clean)} on clean ones.\n\n{told}\n"


def _cells(found: Robustness) -> tuple[list[str], list[list[str]]]:
    """Return the table's heads and rows: corruptions kind by kind, each kind's mean, the mean of all."""
    from semask.data.corruptions import KINDS

    means, kinds = found.by_corruption(), found.by_kind()
    rows: list[list[str]] = []

    def add(name: str, values: Sequence[str], mean: float) -> None:
        rows.append([name, *values, percent(mean), percent(found.degradation(mean))])

    blank = [""] * len(found.strengths)
    for kind, mean in kinds.items():
        for name in KINDS[kind]:
            if name in means:
                add(name.replace("_", " "), [percent(value) for value in found.miou[name]], means[name])
        add(f"all {kind}", blank, mean)
    add("all", blank, found.mean())
    return ["corruption", *(f"strength {strength}" for strength in found.strengths), "mean", "lost of clean %"], rows


def _write(out: Path, record: dict[str, Any], found: Robustness) -> None:
    with whole_file(out.with_suffix(".md")) as part:
        part.write_text(markdown(found), encoding="utf-8")
    write_json(out, record)
    print(f"written to {out}, as a table to {out.with_suffix('.md')}")
