"""`semask predict CHECKPOINT IMAGES --out DIR`: label maps and overlays of images, rasters and videos."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagConversionOff, FlagCreatePairsOff, Positional, arg

from semask.checkpoints.record import read_recipe
from semask.cli.flags import parse as parse_flags
from semask.recipes import TestRecipe
from semask.recipes.prediction import PredictOptions
from semask.text import console, fold, pluralize

logger = logging.getLogger(__name__)
LISTED = 20
"""Failed images that are listed at the end; the manifest has all."""


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
class Flags(PredictOptions):
    """PredictOptions; what is on by default takes true or false."""

    overlay: FlagConversionOff[bool] = True
    """Write images with the classes' colours laid over them."""
    legend: FlagConversionOff[bool] = True
    """Write the names of the classes into a corner of overlays."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Segment images, rasters of any size and videos.

    IMAGES are files, folders with their subfolders, patterns, text files with a path per line, zip and tar files,
    zarr stores, videos, image sequences (frame_%04d.png), cameras (0) and streams (rtsp://…). Rasters with a
    georeference, and large ones, are read by region and give GeoTIFFs.

    Writes OUT/predictions/NAME.png (class ids with the classes' colours as palette), OUT/overlays/NAME.jpg and what
    else the flags ask for; OUT/manifest.jsonl has a line per finished image, from which a run that was ended goes on,
    OUT/summary.csv the shares of the classes. Files that are not images are skipped, and listed at the end; so are
    broken images and links that lead nowhere, which make the exit status 1.

    Videos give OUT/predictions/NAME/000000.png, …, by frame, and OUT/overlays/NAME.mp4 with their sound; frames that
    an ended run has finished are kept. Ctrl-C ends a camera or a stream in good order.

    The --data and --test flags start at the checkpoint's recipe; --test.mode sliding takes images that are too large
    for memory window by window.
    """

    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")]
    """A folder that `semask train` or `semask convert` wrote."""
    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGES")]
    """Files, folders, patterns, lists, archives, videos, streams."""
    run: Annotated[Flags, FlagCreatePairsOff, arg(name="")]
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    test: Annotated[TestRecipe, FlagConversionOff] = dataclasses.field(default_factory=TestRecipe)


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, predict, and return the exit status: 1 when an image could not be segmented."""
    settings = parse(arguments)
    from semask.checkpoints.predict import predict

    options = settings.run
    summary = predict(
        settings.checkpoint, settings.images, options=options, test=settings.test, **dataclasses.asdict(settings.data)
    )
    if options.plan:
        return 0
    # counts, and what failed
    screen = console()
    earlier = f" ({summary.earlier} were there)" if summary.earlier else ""
    left = len(summary.skipped) + len(summary.failed)
    lost = f", of which {len(summary.failed)} could not be read" if summary.failed else ""
    done = pluralize(summary.done, "image")
    screen.print(f"segmented {done}{earlier}, skipped {pluralize(left, 'file')}{lost}; results in {summary.out}")
    errors = console(stderr=True)
    if summary.skipped:
        errors.print(f"no images: {fold([*summary.skipped], LISTED)}")
    if summary.failed:
        errors.print(f"{pluralize(len(summary.failed), 'image')} failed; --retry-failed tries them again:")
        for source, error in [*summary.failed.items()][:LISTED]:
            errors.print(f"  {source}: {error}")
        if len(summary.failed) > LISTED:
            errors.print(f"  and {len(summary.failed) - LISTED} more in {summary.out / 'manifest.jsonl'}")
    if summary.submission:
        screen.print(summary.submission)
    return 1 if summary.failed and not options.keep_going else 0


def parse(arguments: Sequence[str]) -> Settings:
    """The flags over the checkpoint's recipe; --help and bad flags leave by SystemExit."""
    given = parse_flags(Settings, arguments, prog="semask predict")
    # once more: only now is the checkpoint known, at whose recipe the flags start
    recipe = read_recipe(given.checkpoint)
    data = DataOptions(base_scale=recipe.data.base_scale, base_ratio=recipe.data.base_ratio)
    default = dataclasses.replace(given, run=Flags(out=given.run.out), data=data, test=recipe.test)
    return parse_flags(Settings, arguments, prog="semask predict", default=default)
