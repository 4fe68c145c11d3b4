"""`semask predict CHECKPOINT IMAGES --out DIR`: label maps and overlays of images."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import FlagConversionOff, Positional, arg

from semask.checkpoints.record import read_recipe
from semask.cli.flags import parse as parse_flags
from semask.cli.scoring import check_classes
from semask.files import check_writable
from semask.recipes import TestRecipe
from semask.text import Progress, console, pluralize

if TYPE_CHECKING:
    from semask.data.readers.raster import ImageTensor

logger = logging.getLogger(__name__)
PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION = "predictions", "overlays", "priors", "submission"
"""Folders of results; the name "labels" beside images/ would overwrite a data set's truth."""
JPEG_SIDE = 65_500
"""The longest side of a JPEG that libraries write [px]."""


class Summary(NamedTuple):
    """Number of segmented images, and the files that are not images, broken, or cannot be opened."""

    segmented: int
    skipped: tuple[Path, ...]

    @property
    def failed(self) -> tuple[Path, ...]:
        """Images by suffix or content, links that lead nowhere, and files and folders without permission."""
        from semask.data.readers.image import is_image

        return tuple(path for path in self.skipped if not os.access(path, os.R_OK) or is_image(path))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Folder and kinds of the results, and the model's device."""

    out: Path
    """Folder for the results."""
    overlay: FlagConversionOff[bool] = True
    """Write images with the classes' colours laid over them."""
    alpha: float = 0.5
    """Share of colour in overlays, from 0 to 1."""
    outline: int = 0
    """Width of lines around regions in overlays [px]; with --alpha 0 there are lines alone."""
    only: tuple[str, ...] | None = None
    """Names of the classes in overlays, as in --data.classes if that is given; None shows all but the one called
    background."""
    legend: FlagConversionOff[bool] = True
    """Write the names of the classes into a corner of overlays."""
    prior: bool = False
    """Write the semantic prior's label map too; the checkpoint must have semantic layers."""
    submission: Literal["ade20k", "cityscapes", "voc"] | None = None
    """Write to OUT/submission the files that the server of this benchmark takes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Fields of a DataRecipe that decide the scale of images in a test, and the names and colours of classes."""

    classes: str | None = None
    """Class table whose names and colours the results have: a JSON file or a packaged name; None is the
    checkpoint's own."""
    base_scale: tuple[int, int] | None = None
    """(long, short) box [px] that images are fitted into, ratio kept; None keeps their size."""
    base_ratio: float = 1.0
    """Factor on the image's own size where base_scale is None."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Segment an image, or all images in a folder and its subfolders.

    Writes OUT/predictions/NAME.png (class ids with the classes' colours as palette), OUT/overlays/NAME.jpg and, with
    --prior, OUT/priors/NAME.png; with --submission, the files of a benchmark's server. Files that are not images are
    skipped with a warning and counted; so are broken images and links that lead nowhere, which make the exit status 1.
    The --data and --test flags start at the checkpoint's recipe; --test.mode sliding takes images that are too large
    for memory window by window.
    """

    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")]
    """A folder that `semask train` or `semask convert` wrote."""
    images: Annotated[Path, Positional, arg(metavar="IMAGES")]
    """An image or a folder."""
    run: Annotated[PredictOptions, arg(name="")]
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    test: Annotated[TestRecipe, FlagConversionOff] = dataclasses.field(default_factory=TestRecipe)


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, predict, and return the exit status: 1 when an image could not be segmented."""
    settings = parse(arguments)
    done = predict(settings.checkpoint, settings.images, settings.run, data=settings.data, test=settings.test)
    return 1 if done.failed else 0


def parse(arguments: Sequence[str]) -> Settings:
    """The flags over the checkpoint's recipe; --help and bad flags leave by SystemExit."""
    given = parse_flags(Settings, arguments, prog="semask predict")
    # once more: only now is the checkpoint known, at whose recipe the flags start
    recipe = read_recipe(given.checkpoint)
    data = DataOptions(base_scale=recipe.data.base_scale, base_ratio=recipe.data.base_ratio)
    default = dataclasses.replace(given, data=data, test=recipe.test)
    return parse_flags(Settings, arguments, prog="semask predict", default=default)


def predict(
    checkpoint: Path,
    images: Path,
    options: PredictOptions,
    *,
    data: DataOptions | None = None,
    test: TestRecipe | None = None,
) -> Summary:
    """Segment images and write the results; `data` and `test` None are the checkpoint's own.

    Raises:
        ValueError: an option is out of range, or no file is an image that can be segmented.
    """
    from semask.data.readers.raster import read_raster
    from semask.inference.from_recipe import scale_note, window_warning

    # refuse wrong input before the model is built
    out = options.out
    check_writable(out)
    files = find_files(images, leave_out=out)
    painter = Painter(checkpoint, options, data, test)
    names = output_names(files, images if images.is_dir() else images.parent)
    skipped, warned, note = [], False, ""
    with Progress("segmenting", len(files)) as progress:
        log = progress.console
        painter.watch(lambda passes: progress.advance(0, f"{passes} passes of the model"))
        for file, name in progress.track(zip(files, names, strict=True)):
            try:
                if not os.access(file, os.R_OK):
                    raise ValueError("cannot be opened; restore the link's target or the permission")
                image = read_raster(file, painter.data)
                # one note on the scale and one warning on windows, for the first image that each concerns
                size, windows = (image.shape[-2], image.shape[-1]), None if warned else painter.windows
                if windows and (warning := window_warning(painter.data, windows, *size)):
                    log.print(f"{file}: {warning}", style="yellow")
                    warned = True
                elif not (note or warned) and (note := scale_note(painter.data, *size) or ""):
                    log.print(note)
                painter.paint(image, name)
            except (ValueError, MemoryError, RuntimeError) as error:
                message = str(error)
                if not isinstance(error, ValueError):
                    # torch has a class of its own for a GPU's memory alone
                    if not isinstance(error, MemoryError) and "allocate" not in message:
                        raise
                    message = "the memory is too small for this image at once; use windows (--test.mode sliding)"
                log.print(f"skipped: {message if str(file) in message else f'{file}: {message}'}", style="yellow")
                skipped.append(file)
    # a folder without any image is an error, single files are not
    summary = Summary(len(files) - len(skipped), tuple(skipped))
    if not summary.segmented:
        raise ValueError(f"none of the {len(files)} files in {str(images)!r} is an image that can be segmented")
    done, left = pluralize(summary.segmented, "image"), pluralize(len(skipped), "file")
    screen = console()
    lost = f", of which {len(summary.failed)} could not be read" if summary.failed else ""
    screen.print(f"segmented {done}, skipped {left}{lost}; results in {out}")
    if painter.submission:
        screen.print(painter.submission.summary())
    return summary


class Painter:
    """The results of images: label maps and, as the options ask, overlays, semantic priors and a submission."""

    def __init__(
        self, checkpoint: Path, options: PredictOptions, data: DataOptions | None, test: TestRecipe | None
    ) -> None:
        """Load a checkpoint with a predictor by `data` and `test`; None are its recipe's."""
        from semask.checkpoints import store
        from semask.data.classes import Classes
        from semask.data.published.submission import Submission
        from semask.inference import build_predictor, build_prior
        from semask.inference.from_recipe import scale_warning
        from semask.ops.device import pick_device
        from semask.visualization.colours import foreground, numbered_classes

        self.options, self.device = options, pick_device(options.device)
        bundle = store.load(checkpoint, device=self.device)
        self.model, recipe, classes = bundle
        assert recipe is not None  # the model was built by it
        if options.prior and recipe.model.encoder.semantic is None:
            raise ValueError(f"{recipe.name} has no semantic layers and so no semantic prior; leave out --prior")
        self.data, test = recipe.data, test or recipe.test
        self.classes = classes or numbered_classes(recipe.model.num_classes)
        if data is not None:
            self.data = dataclasses.replace(recipe.data, base_scale=data.base_scale, base_ratio=data.base_ratio)
        # names and colours of another table of the same classes
        if data is not None and data.classes is not None:
            table = Classes.load(data.classes)
            check_classes(bundle, table)
            self.classes = table
        self.shown = foreground(self.classes) if options.only is None else self.classes.numbers(options.only, "--only")
        if warning := scale_warning(recipe.data, self.data, test):
            logger.warning(warning)
        # windows of the flags, in place of the checkpoint's own test
        self.windows = test if (test.mode, test.window) != (recipe.test.mode, recipe.test.window) else None
        self.predictor = build_predictor(self.model, test, self.data)
        self.prior = build_prior(self.model, test, self.data) if options.prior else None
        benchmark = options.submission
        self.submission = benchmark and Submission(benchmark, self.classes, options.out / SUBMISSION)

    def watch(self, report: Callable[[int], None]) -> None:
        """Report the passes of the model so far after each of them: a large image takes hundreds."""
        passes = itertools.count(1)
        self.model.encoder.register_forward_hook(lambda *_: report(next(passes)))

    def paint(self, image: ImageTensor, name: str) -> None:
        """Segment one image c×H×W and write the results under `name`."""
        import torch

        from semask.data.readers.raster import as_rgb
        from semask.visualization.colours import overlay, write_image, write_label

        # the model, then a file of each kind
        out, batch = self.options.out, image[None].to(self.device)
        with torch.inference_mode():
            labels = self.predictor.labels(batch)[0].cpu()
            prior = self.prior.labels(batch)[0].cpu() if self.prior else None
        write_label(out / PREDICTIONS / f"{name}.png", labels, self.classes)
        if self.submission:
            self.submission.write(name, labels, size=(image.shape[-2], image.shape[-1]))
        if prior is not None:
            write_label(out / PRIORS / f"{name}.png", prior, self.classes)
        if self.options.overlay:
            options = {name: getattr(self.options, name) for name in ("alpha", "outline", "legend")}
            mixed = overlay(as_rgb(image), labels, self.classes, shown=self.shown, **options)
            suffix = "jpg" if max(mixed.shape) <= JPEG_SIDE else "png"
            write_image(out / OVERLAYS / f"{name}.{suffix}", mixed)


def find_files(images: Path, *, leave_out: Path) -> list[Path]:
    """The image, or the files below a folder in order, without hidden ones and results in `leave_out`."""
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise ValueError(f"there is no image or folder {str(images)!r}")
    from semask.data.readers.tree import paths_below

    # results of an earlier call may be in a folder below
    # realpath, since resolve refuses links in a circle
    results = {Path(os.path.realpath(leave_out / folder)) for folder in (PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION)}
    found = paths_below(images, broken=True)
    found = [path for path in found if results.isdisjoint(Path(os.path.realpath(path)).parents)]
    if not found:
        raise ValueError(f"the folder {str(images)!r} holds no files")
    return found


def output_names(files: Sequence[Path], root: Path) -> list[str]:
    """Unique names of the files' results, without suffix and relative to `root`.

    Files that differ in suffix only, such as a.jpg and a.png, keep their suffixes. Upper and lower case are alike.
    """
    paths = [file.relative_to(root) for file in files]
    stems = [path.with_suffix("") for path in paths]
    taken = Counter(str(stem).casefold() for stem in stems)
    names = [str(path if taken[str(stem).casefold()] > 1 else stem) for path, stem in zip(paths, stems, strict=True)]
    # a stem may be another file's whole name: a.png.jpg beside a.png
    if len({name.casefold() for name in names}) < len(names):
        return [str(path) for path in paths]
    return names
