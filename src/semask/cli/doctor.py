"""`semask doctor DATA`: check a data set, and measure what training on it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagConversionOff, arg

from semask.cli.flags import STORED, parse_over, split_name
from semask.files import check_writable, write_json, write_text
from semask.recipes import DataRecipe, Recipe, get_recipe
from semask.text import Table, console, pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from semask.data.checks.doctor import Diagnosis
    from semask.data.checks.propose import Proposal

USAGE = "semask doctor DATA"
FIRST = ("data.root", "data.classes", "data.images", "data.labels", "data.train-split", "data.val-split")
SEEN = {*STORED, "train_split", "val_split"}
"""Fields of a DataRecipe that decide what is read."""
SHOWN = 10
"""Number of files on the screen for one kind of problem; the page has more."""
SHOWN_CLASSES = 40
LINE = 600
"""Characters of a line of a class table on the screen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Folder of the results, and the limits of the checks."""

    out: Path | None = None
    """Folder for doctor.json and doctor.html; None is runs/doctor/NAME."""
    distance: int = 3
    """Bits in which the 64-bit signatures of duplicate images may differ; 0 finds scaled copies alone."""
    beta: float = 0.999
    """Parameter of class weights by effective number, in [0, 1)."""
    workers: int | None = None
    """Number of threads that read files; None is one per CPU core, at most eight."""
    write_classes: bool = False
    """Write ROOT/classes.json, derived from the values of all labels, for a data set without a class table."""
    replace_classes: bool = False
    """With --write-classes: replace the ROOT/classes.json that is there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: options, and the data's fields, whose booleans are written true and false."""

    run: Annotated[DoctorOptions, arg(name="")] = dataclasses.field(default_factory=DoctorOptions)
    data: Annotated[DataRecipe, FlagConversionOff]


def main(arguments: Sequence[str]) -> int:
    """Parse `DATA [flags]`, check, and return the exit status: 1 when training would fail or give wrong results."""
    # DATA is a recipe or, more often, a folder that no recipe describes
    name, flags = split_name(arguments, usage=USAGE, hint="DATA is a folder, a zip file or a recipe.")
    description = (
        "Read every image and label of a folder, zip file or recipe (with --data.root) and report all problems. Exit "
        "status 1 when training would fail or give wrong results in silence.\n\nclasses.json in the folder names the "
        "classes and the label values of each: numbers, ranges and colours.\n"
        '{"classes": ["background", {"name": "crop", "colour": "#00ff00"}],\n'
        ' "labels": {"0-127": "background", "128-255": "crop"}}   or {"#000000": "background", "#00ff00": "crop"}\n'
        "--data.label-suffix _{class}.png, or --data.labels labels/{class}, reads one mask per class."
    )
    recipe = Recipe(name="DATA") if name is None else find_data(name)
    options: dict[str, Any] = {"prog": USAGE, "description": description, "first": FIRST, "data": SEEN}
    settings, recipe = parse_over(Settings, recipe, flags, **options)
    if recipe.data.kind == "scenes":
        raise ValueError(f"{recipe.name} draws its scenes and has no files to check; give a folder or a recipe")
    out = settings.run.out or Path("runs") / "doctor" / recipe.name.replace("/", "-")
    check_writable(out)
    if settings.run.write_classes:
        write_classes(recipe.data, replace=settings.run.replace_classes, workers=settings.run.workers)
    # a recipe for any classes takes the number of its data
    expected = None if recipe.data.classes_from_data else recipe.model.num_classes
    return 1 if examine(recipe.name, recipe.data, settings.run, out, num_classes=expected).errors else 0


def find_data(name: str) -> Recipe:
    """The recipe of that name, or one for that folder or zip file, named after it.

    Raises:
        ValueError: there is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return Recipe(name=path.resolve().name, data=DataRecipe(root=name, classes_from_data=True))
    try:
        return get_recipe(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is neither a folder nor a zip file, and there is {error}") from None


def write_classes(data: DataRecipe, *, replace: bool, workers: int | None) -> None:
    """Write ROOT/classes.json, derived from all labels.

    Raises:
        ValueError: there is a table already and it is not to be replaced, the labels show none, or the root is a zip
            file; the message then holds the table.
    """
    from semask.data.checks.propose import propose
    from semask.data.pairs import TABLE, find_root

    if data.classes is not None:
        raise ValueError(
            f"--write-classes is for data without a class table; use it with --data.classes None, not {data.classes}"
        )
    root = find_root(data)
    path = root / TABLE
    if path.exists() and not replace:
        raise ValueError(f"{path} is there already; add --replace-classes to replace it")
    proposal = propose(data, sample=None, workers=workers)
    text = proposal.classes.to_text()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: save this as a file, and name it by --data.classes:\n{text}")
    write_text(path, text)
    next_step = _next_step(data, proposal)
    console().print(f"written to {path}, since {proposal.reason}; {next_step}:\n{_screenful(text)}", markup=False)


def _next_step(data: DataRecipe, proposal: Proposal) -> str:
    from semask.data.masks import has_mask_per_class

    masks = "the names are those of the masks, and later classes lie above earlier ones"
    step = masks if has_mask_per_class(data) else "edit the names"
    return f"{step}. {proposal.hint}" if proposal.hint else step


def _screenful(table: str) -> str:
    """The text of a class table, without most of its lines where there are many, and with its last line cut."""
    lines = [line if len(line) <= LINE else f"{line[:LINE]} …" for line in table.splitlines()]
    if len(lines) > SHOWN_CLASSES:
        lines[SHOWN_CLASSES // 2 : -2] = [f"    … {len(lines) - SHOWN_CLASSES // 2 - 2} more lines"]
    return "\n".join(lines) + "\n"


def examine(name: str, data: DataRecipe, options: DoctorOptions, out: Path, *, num_classes: int | None) -> Diagnosis:
    """Diagnose the data, write doctor.json and doctor.html into `out`, and print the main results."""
    from semask.data.checks.doctor import diagnose
    from semask.visualization.pages.doctor import write_doctor_page

    # one reading of all files finds problems and counts classes
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
    screen = console()
    show(diagnosis, screen)
    screen.print(f"page with images in {out / 'doctor.html'}, all figures in {out / 'doctor.json'}")
    return diagnosis


def show(diagnosis: Diagnosis, screen: Console) -> None:
    """Print a diagnosis: problems, classes, statistics to paste, and the verdict."""
    from rich.text import Text

    from semask.data.checks.issue import KINDS
    from semask.data.checks.propose import write_command

    # problems by severity and kind, the first of each
    for problems, word, style in ((diagnosis.errors, "wrong", "bold red"), (diagnosis.warnings, "warning", "yellow")):
        for kind in KINDS:
            listed = [problem for problem in problems if problem.kind == kind]
            for problem in listed[:SHOWN]:
                screen.print(Text.assemble((word, style), f" {problem}"))
            if len(listed) > SHOWN:
                screen.print(f"… and {len(listed) - SHOWN} more of this kind ({kind})", style=style)
    if diagnosis.proposal is not None:
        table = _screenful(diagnosis.proposal.classes.to_text())
        screen.print(
            f"no class table; {diagnosis.proposal.reason}. `{write_command(diagnosis.data)}` writes this as "
            f"classes.json; {_next_step(diagnosis.data, diagnosis.proposal)}:\n{table}",
            markup=False,
            soft_wrap=True,
        )
    # classes, then flags to paste, and the verdict where readers look last
    screen.print(diagnosis.classes.describe())
    screen.print(class_table(diagnosis).rich())
    for line in to_paste(diagnosis):
        screen.print(line)
    pairs = " + ".join(f"{len(split.pairs)} {split.name}" for split in diagnosis.splits)
    style, verdict = ("bold red", "not fit for training") if diagnosis.errors else ("bold green", "fit for training")
    errors, warnings = pluralize(len(diagnosis.errors), "error"), pluralize(len(diagnosis.warnings), "warning")
    screen.print(Text.assemble((verdict, style), f": {errors} and {warnings} in {pairs} pairs"))


def class_table(diagnosis: Diagnosis) -> Table:
    """Share of pixels, training images and weights of the classes, frequent ones first; of many, both ends."""
    # by frequency; classes of one frequency in the order of the table
    counts, names = diagnosis.training.counts, diagnosis.classes.names
    total = max(1, int(counts.pixels.sum()))
    rows: list[tuple[str, ...]] = []
    for index in (-counts.pixels).argsort(kind="stable").tolist():
        weights = (f"{weights[index]:.3g}" for weights in diagnosis.class_weights.values())
        rows.append((names[index], f"{100 * counts.pixels[index] / total:.3g}", str(counts.images[index]), *weights))
    columns = ("class", "pixels %", "images", *(name.split()[0] for name in diagnosis.class_weights))
    # of long-tailed sets, the most frequent and the rarest classes
    if len(rows) > SHOWN_CLASSES:
        half = SHOWN_CLASSES // 2
        rest = (f"… {len(rows) - SHOWN_CLASSES} more", *[""] * (len(columns) - 1))
        rows = [*rows[:half], rest, (), *rows[-half:]]
    return Table(columns, rows)


def to_paste(diagnosis: Diagnosis) -> list[str]:
    """Statistics and, unless classes are many, weights of the training split as flags of `semask train`."""
    # figures of another split would mislead
    if diagnosis.training.name != diagnosis.data.train_split or not diagnosis.training.pairs:
        return [f"no statistics or weights before the split {diagnosis.data.train_split!r} can be read"]
    lines = [f"statistics for encoders without pretrained weights: {diagnosis.statistics_flags() or 'none'}"]
    if len(diagnosis.classes) <= SHOWN_CLASSES:
        lines += [own] if (own := diagnosis.own_weights()) else []
        lines += [f"{name}: {flag}" for name, flag in diagnosis.weight_flags().items()]
    else:
        lines.append(f"weights of all {len(diagnosis.classes)} classes: on the page, as flags to copy")
    return lines
