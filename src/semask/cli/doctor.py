"""`semask doctor DATA`: all that is wrong with a data set, and what training on it should know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from semask.cli.flags import parse as parse_flags
from semask.files import check_writable, write_json
from semask.recipes import DataRecipe, Recipe, get
from semask.text import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from semask.data.checks.doctor import Diagnosis

PROG = "semask doctor DATA"
SHOWN = 10
"""Files of one kind of problem on the screen; the page has more."""
SHOWN_CLASSES = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Where results go, and what counts as alike."""

    out: Path | None = None
    """Folder for doctor.json and doctor.html; None is runs/doctor/NAME."""
    distance: int = 3
    """Pictures are alike whose 64-bit signatures differ in at most this many bits; 0 finds scaled copies alone."""
    beta: float = 0.999
    """Of class weights by effective number, [0, 1)."""
    workers: int | None = None
    """Threads that read files; None is one per processor, at most eight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: how to look, and where the data are. Yes and no are written true and false in data's flags."""

    run: Annotated[DoctorOptions, tyro.conf.arg(name="")]
    data: Annotated[DataRecipe, tyro.conf.FlagConversionOff]


def main(arguments: Sequence[str]) -> int:
    """Parse `DATA [flags]`, look, and return the exit status: 1 when training would fail or go wrong in silence."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        parse(DataRecipe(), ["--help"])
    if arguments[0].startswith("-"):
        raise ValueError(f"the data come first: {PROG} [flags]; got {arguments[0]!r}. DATA is a folder or a recipe")
    recipe = find_data(arguments[0])
    settings = parse(recipe.data, arguments[1:])
    if settings.data.kind == "scenes":
        raise ValueError(f"{recipe.name} draws its scenes and has no files to look through; give a folder or a recipe")
    options = settings.run
    out = options.out or Path("runs") / "doctor" / recipe.name.replace("/", "-")
    check_writable(out)
    expected = None if settings.data.classes_from_data else recipe.model.num_classes
    diagnosis = examine(recipe.name, settings.data, options, out, num_classes=expected)
    return 1 if diagnosis.errors else 0


def find_data(name: str) -> Recipe:
    """Return the recipe of that name, or one for that folder or zip file, named after it.

    Raises:
        ValueError: it is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return Recipe(name=path.resolve().name, data=DataRecipe(root=name, classes_from_data=True))
    try:
        return get(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no folder or zip file, and there is {error}") from None


def parse(data: DataRecipe, flags: Sequence[str]) -> Settings:
    """Return the flags over the data's; --help and bad flags leave by SystemExit."""
    return parse_flags(
        Settings,
        flags,
        prog=PROG,
        description=(
            "Read every picture and label of a folder, zip file or recipe (with --data.root) and tell what is wrong "
            "with them. Exit status 1 when training would fail or go wrong in silence."
        ),
        default=Settings(run=DoctorOptions(), data=data),
    )


def examine(name: str, data: DataRecipe, options: DoctorOptions, out: Path, *, num_classes: int | None) -> Diagnosis:
    """Diagnose the data of that name, write doctor.json and doctor.html into `out`, and tell the main things."""
    from rich.console import Console

    from semask.data.checks.doctor import diagnose
    from semask.visualization.pages.doctor import write_doctor_page

    diagnosis = diagnose(
        data,
        num_classes=num_classes,
        beta=options.beta,
        distance=options.distance,
        workers=options.workers,
        progress=True,
    )
    write_json(out / "doctor.json", diagnosis.to_dict())
    write_doctor_page(out / "doctor.html", diagnosis, name=name)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)  # names are told as they are
    tell(diagnosis, console)
    console.print(f"page with pictures in {out / 'doctor.html'}, all figures in {out / 'doctor.json'}", markup=False)
    return diagnosis


def tell(diagnosis: Diagnosis, console: Console) -> None:
    """Print what the diagnosis says: what is wrong, the classes, figures to paste, and the verdict."""
    from rich.text import Text

    from semask.data.checks.issue import KINDS

    for problems, word, style in ((diagnosis.errors, "wrong", "bold red"), (diagnosis.warnings, "warning", "yellow")):
        for kind in KINDS:
            listed = [problem for problem in problems if problem.kind == kind]
            for problem in listed[:SHOWN]:
                console.print(Text.assemble((word, style), f" {problem}"))
            if len(listed) > SHOWN:
                console.print(f"… and {len(listed) - SHOWN} more of this kind ({kind})", style=style)
    console.print(diagnosis.classes.told())
    console.print(class_table(diagnosis))
    for line in to_paste(diagnosis):
        console.print(line, markup=False)
    pairs = " + ".join(f"{len(split.pairs)} {split.name}" for split in diagnosis.splits)
    style, verdict = ("bold red", "not fit for training") if diagnosis.errors else ("bold green", "fit for training")
    errors, warnings = counted(len(diagnosis.errors), "error"), counted(len(diagnosis.warnings), "warning")
    console.print(Text.assemble((verdict, style), f": {errors} and {warnings} in {pairs} pairs"))


def class_table(diagnosis: Diagnosis) -> Table:
    """Return share of pixels, training pictures and weights of the classes, frequent first; of many, both ends."""
    from rich.table import Table

    training = diagnosis.training
    total = max(1, int(training.counts.pixels.sum()))
    grid = Table()
    grid.add_column("class", no_wrap=True)
    for title in ("pixels %", "pictures", *(name.split()[0] for name in diagnosis.class_weights)):
        grid.add_column(title, justify="right")
    order = (-training.counts.pixels).argsort(kind="stable").tolist()
    for place, index in enumerate(order):
        if len(order) > SHOWN_CLASSES and place == SHOWN_CLASSES // 2:
            grid.add_row(f"… {len(order) - SHOWN_CLASSES} more", end_section=True)
        if len(order) > SHOWN_CLASSES and SHOWN_CLASSES // 2 <= place < len(order) - SHOWN_CLASSES // 2:
            continue
        share, images = training.counts.pixels[index] / total, training.counts.images[index]
        weights = (f"{weights[index]:.3g}" for weights in diagnosis.class_weights.values())
        grid.add_row(diagnosis.classes.names[index], f"{100 * share:.3g}", str(images), *weights)
    return grid


def to_paste(diagnosis: Diagnosis) -> list[str]:
    """Return statistics and, unless classes are many, weights of the training split as flags of `semask train`."""
    if diagnosis.training.name != diagnosis.data.train_split or not diagnosis.training.pairs:
        return [f"no statistics or weights to paste before the split {diagnosis.data.train_split!r} can be read"]
    lines = [f"statistics, for encoders without pretrained weights: {diagnosis.statistics_flags() or 'none'}"]
    if len(diagnosis.classes) <= SHOWN_CLASSES:
        lines += [f"{name}: {flag}" for name, flag in diagnosis.weight_flags().items()]
    else:
        lines.append(f"weights of all {len(diagnosis.classes)} classes: on the page, as flags to copy")
    return lines
