"""`semask prepare DATASET --from DOWNLOAD … --root DIR`: turn official downloads into the tree that recipes read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from semask.cli.flags import parse
from semask.files import check_writable
from semask.text import console

if TYPE_CHECKING:
    from semask.data.published.prepare import Prepared

Name = Literal[
    "ade20k",
    "cityscapes",
    "cityscapes-coarse",
    "pascal-context",
    "coco-stuff10k",
    "coco-stuff164k",
    "voc",
    "voc-aug",
    "camvid",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Turn official downloads, which you have fetched, into the folder that recipes read.

    Archives are read without being unpacked. Labels become those of the class table, every one is checked, and images
    are counted. A second call continues after the first one.
    """

    dataset: Annotated[Name, Positional]
    """Name of the dataset; cityscapes-coarse adds the coarse labels to cityscapes, voc-aug those of SBD to voc."""
    downloads: Annotated[tuple[Path, ...], arg(name="from")]
    """The downloads: zip and tar files, or folders they were unpacked to."""
    root: Path
    """Folder to make, the --data.root of training; a folder of an earlier call is completed."""
    partial: bool = False
    """Take the complete pairs although downloads or images are missing."""
    workers: int | None = None
    """Number of threads; None takes one per CPU core, at most eight."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and prepare."""
    prepare(parse(Settings, arguments, prog="semask prepare"))


def prepare(settings: Settings) -> Prepared:
    """Prepare a dataset by the settings, print the numbers of images, and return them."""
    from semask.data.published import prepare as preparing
    from semask.data.published.catalogue import DATASETS

    official = DATASETS[settings.dataset]
    if not settings.downloads:
        raise ValueError(f"name the downloads: --from {' '.join(official.downloads)}")
    if settings.workers is not None and settings.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {settings.workers}")
    # a download of hours should not end at a full or read-only disk
    check_writable(settings.root, flag="--root")
    # read, relabel, check and count
    done = preparing.prepare(
        official,
        settings.downloads,
        settings.root,
        partial=settings.partial,
        workers=settings.workers,
        progress=True,
    )
    counts = ", ".join(f"{count} of {official.counts[split]} in {split}" for split, count in done.images.items())
    screen = console()
    screen.print(f"{official.title} in {settings.root}: {counts}; {done.made} files made, {done.kept} kept")
    screen.print(f"train on it by the recipes of `semask models` with --data.root {settings.root}")
    return done
