"""`semask predict CHECKPOINT PICTURES --out DIR`: label maps and overlays of pictures."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import FlagConversionOff, Positional, arg

from semask.checkpoints.record import read_recipe
from semask.cli.flags import parse as parse_flags
from semask.files import check_writable
from semask.inference.scale_check import scale_warning, window_warning
from semask.recipes import DataRecipe, TestRecipe
from semask.text import counted

if TYPE_CHECKING:
    import torch

    from semask.data.classes import Classes
    from semask.data.published.submission import Submission
    from semask.data.readers.raster import Picture
    from semask.inference import Predictor

PROG = "semask predict"
logger = logging.getLogger(__name__)
PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION = "predictions", "overlays", "priors", "submission"
"""Folders of results. Not "labels": next to images/ that would overwrite a data set's truth."""


class Painter(NamedTuple):
    """What makes pictures out of a picture; prior and submission are None where none is wanted.

    data says how pictures are read. windows is a test by windows that was asked for in place of the checkpoint's own
    test, None where none was.
    """

    predictor: Predictor
    prior: Predictor | None
    data: DataRecipe
    windows: TestRecipe | None
    classes: Classes
    device: torch.device
    alpha: float
    overlay: bool
    submission: Submission | None


class Summary(NamedTuple):
    """How many pictures were segmented, and which files were no pictures."""

    segmented: int
    skipped: tuple[Path, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Where results go, which ones, and where the model runs."""

    out: Path
    """Folder for the results."""
    overlay: bool = True
    """Write pictures with the classes' colours laid over them."""
    alpha: float = 0.5
    """Share of colour in overlays, from 0 to 1."""
    prior: bool = False
    """Write the semantic prior's label map too; the checkpoint must have semantic layers."""
    submission: Literal["ade20k", "cityscapes", "voc"] | None = None
    """Write, to OUT/submission, the files that the server of this benchmark takes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Segment a picture, or all pictures in a folder and its subfolders.

    Writes OUT/predictions/NAME.png (class ids with the classes' colours as palette), OUT/overlays/NAME.jpg and, with
    --prior, OUT/priors/NAME.png; with --submission, what a benchmark's server takes. What is no picture is skipped with
    a warning and counted. The --test flags begin at
    the checkpoint's recipe; --test.mode sliding takes pictures that are too large for memory window by window.
    """

    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")]
    """A folder that `semask train` or `semask convert` wrote."""
    pictures: Annotated[Path, Positional, arg(metavar="PICTURES")]
    """A picture or a folder."""
    run: Annotated[PredictOptions, arg(name="")]
    test: Annotated[TestRecipe, FlagConversionOff] = dataclasses.field(default_factory=TestRecipe)


def main(arguments: Sequence[str]) -> None:
    """Parse the flags, whose --test flags begin at the checkpoint's own recipe, and predict."""
    settings = parse(arguments)
    predict(settings.checkpoint, settings.pictures, settings.run, test=settings.test)


def parse(arguments: Sequence[str]) -> Settings:
    """Return the flags over the checkpoint's recipe; --help and bad flags leave by SystemExit."""
    given = parse_flags(Settings, arguments, prog=PROG)
    # Only now is it known which checkpoint's recipe the flags begin at.
    begin = dataclasses.replace(given, test=read_recipe(given.checkpoint).test)
    return parse_flags(Settings, arguments, prog=PROG, default=begin)


def predict(checkpoint: Path, pictures: Path, options: PredictOptions, *, test: TestRecipe | None = None) -> Summary:
    """Segment the pictures as `Settings` tells; `test` None is the checkpoint's own."""
    from rich.console import Console
    from rich.progress import track

    from semask.data.readers.raster import read_picture

    out = options.out
    if not 0 <= options.alpha <= 1:
        raise ValueError(f"--alpha is the share of colour and lies in [0, 1], got {options.alpha}")
    check_writable(out)
    files = find_files(pictures, leave_out=out)
    painter = load_painter(checkpoint, options, test)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    names = output_names(files, pictures if pictures.is_dir() else pictures.parent)
    skipped, warned = [], False
    for file, name in track(list(zip(files, names, strict=True)), description="Segmenting", console=console):
        try:
            with _memory_told():
                picture = read_picture(file, painter.data)
                if not warned and (warning := _window_warning(painter, picture)):
                    console.print(f"{file}: {warning}", style="yellow")
                    warned = True
                paint(painter, picture, out, name)
        except ValueError as error:
            told = str(error) if str(file) in str(error) else f"{file}: {error}"
            console.print(f"skipped: {told}", style="yellow")
            skipped.append(file)
    summary = Summary(len(files) - len(skipped), tuple(skipped))
    if not summary.segmented:
        raise ValueError(f"none of the {len(files)} files in {str(pictures)!r} is a picture that can be segmented")
    done, left = counted(summary.segmented, "picture"), counted(len(skipped), "file")
    result = Console(soft_wrap=True, highlight=False)
    result.print(f"segmented {done}, skipped {left}; results in {out}")
    if painter.submission is not None:
        result.print(painter.submission.summary())
    return summary


def load_painter(checkpoint: Path, options: PredictOptions, test: TestRecipe | None) -> Painter:
    """Load a checkpoint with the predictor that `test` asks for; None is its recipe's."""
    from semask.checkpoints import store
    from semask.data.published.submission import Submission
    from semask.inference import build_predictor, build_prior
    from semask.ops.device import pick_device
    from semask.visualization.colours import numbered_classes

    place = pick_device(options.device)
    model, recipe, found = store.load(checkpoint, device=place)
    classes = found or numbered_classes(recipe.model.num_classes)
    if options.prior and not recipe.model.encoder.semantic_layers:
        raise ValueError(f"{recipe.name} has no semantic layers and so no semantic prior; leave out --prior")
    test = test or recipe.test
    warning = scale_warning(recipe.data, recipe.data, test)
    if warning:
        logger.warning(warning)
    return Painter(
        predictor=build_predictor(model, test, recipe.data),
        prior=build_prior(model, test, recipe.data) if options.prior else None,
        data=recipe.data,
        windows=test if (test.mode, test.window) != (recipe.test.mode, recipe.test.window) else None,
        classes=classes,
        device=place,
        alpha=options.alpha,
        overlay=options.overlay,
        submission=options.submission and Submission(options.submission, classes, options.out / SUBMISSION),
    )


def paint(painter: Painter, picture: Picture, out: Path, name: str) -> None:
    """Segment one picture c×H×W and write the results under `name`."""
    import torch

    from semask.data.readers.raster import as_rgb
    from semask.visualization.colours import overlay, write_image, write_label

    with torch.inference_mode():
        batch = picture[None].to(painter.device)
        labels = painter.predictor.labels(batch)[0].cpu()
        prior = painter.prior.labels(batch)[0].cpu() if painter.prior else None
    write_label(out / PREDICTIONS / f"{name}.png", labels, painter.classes)
    if painter.submission is not None:
        painter.submission.write(name, labels, size=(picture.shape[-2], picture.shape[-1]))
    if prior is not None:
        write_label(out / PRIORS / f"{name}.png", prior, painter.classes)
    if painter.overlay:
        mixed = overlay(as_rgb(picture), labels, painter.classes, alpha=painter.alpha)
        write_image(out / OVERLAYS / f"{name}.jpg", mixed)


def _window_warning(painter: Painter, picture: Picture) -> str | None:
    if painter.windows is None:
        return None
    return window_warning(painter.data, painter.windows, picture.shape[-2], picture.shape[-1])


@contextmanager
def _memory_told() -> Iterator[None]:
    """Say what helps where memory is not enough for a picture."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for a GPU's memory alone.
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise ValueError(
            "the memory is not enough for this picture at once; take it window by window, say --test.mode sliding"
        ) from error


def find_files(pictures: Path, *, leave_out: Path) -> list[Path]:
    """Return the picture, or the files below a folder in order, without hidden ones and results in `leave_out`."""
    if pictures.is_file():
        return [pictures]
    if not pictures.is_dir():
        raise ValueError(f"there is no picture or folder {str(pictures)!r}")
    from semask.data.readers.tree import paths_below

    results = {(leave_out / folder).resolve() for folder in (PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION)}
    found = [
        path
        for path in paths_below(pictures)
        if not any(part.startswith(".") for part in path.relative_to(pictures).parts)
        and results.isdisjoint(path.resolve().parents)
    ]
    if not found:
        raise ValueError(f"the folder {str(pictures)!r} holds no files")
    return found


def output_names(files: Sequence[Path], root: Path) -> list[str]:
    """Return a name without suffix for each file's results, relative to `root`; no two are the same.

    Files that differ in suffix only, such as a.jpg and a.png, keep their suffixes: a.jpg and a.png. Names are compared
    without regard to case, since some file systems do not tell them apart.
    """
    paths = [file.relative_to(root) for file in files]
    stems = [path.with_suffix("") for path in paths]
    taken = Counter(str(stem).casefold() for stem in stems)
    names = [str(path if taken[str(stem).casefold()] > 1 else stem) for path, stem in zip(paths, stems, strict=True)]
    if len({name.casefold() for name in names}) < len(names):
        return [str(path) for path in paths]
    return names
