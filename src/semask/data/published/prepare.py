"""The tree that recipes read, made from the official downloads of a dataset.

Files get names of our own, are written beside their place and moved there when whole. Existing ones stay, so that a
second call goes on where the first one ended. Every label is checked, and images are counted, before and after.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer
from PIL import Image

from semask.data.classes import UNKNOWN, Classes
from semask.data.pairs import find_pairs
from semask.data.published.download import open_download
from semask.data.published.official import Official, SplitFiles
from semask.data.readers.image import read_label
from semask.data.readers.source import Source
from semask.files import atomic_write
from semask.text import Progress

logger = logging.getLogger(__name__)

SCRATCH = ".downloads"
"""Folder below the root for files that are needed only while preparing."""
SHOWN = 10
AT_ONCE = 1024
"""Jobs that wait for threads."""
GIB = 2**30


class Prepared(NamedTuple):
    """The result of `prepare`: images by split, new files, and files that existed before."""

    images: dict[str, int]
    made: int
    kept: int


class Job(NamedTuple):
    """A file to be made; `labels` is the class table of label files, None for images."""

    target: Path
    source: Source
    labels: Classes | None


def prepare(
    official: Official,
    downloads: Sequence[Path],
    root: Path,
    *,
    partial: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Prepared:
    """Make the tree of a published dataset below `root`; `partial` accepts missing pairs.

    Raises:
        ValueError: a download is missing, damaged or unsafe; images or labels are missing, or a label holds values
            that the dataset does not have; there is too little space.
    """
    scratch = root / SCRATCH
    files: dict[str, Source] = {}
    for number, path in enumerate(downloads):
        files |= {f"{number}/{name}": source for name, source in open_download(path, scratch=scratch).items()}
    # find all pairs
    found = official.gather(files)
    _check_counts(official, found, downloads, partial=partial)
    data, table = official.data, Classes.load(str(official.data.classes))
    jobs: list[Job] = []
    for split, pairs in found.items():
        images_to, labels_to = (root / pattern.replace("{split}", split) for pattern in (data.images, data.labels))
        for stem, image in sorted(pairs.images.items()):
            if split in official.unlabelled or stem in pairs.labels:
                suffix = data.image_suffix or PurePosixPath(image.name).suffix
                jobs.append(Job(images_to / f"{stem}{suffix}", image, None))
            if stem in pairs.labels:
                jobs.append(Job(labels_to / f"{stem}{data.label_suffix}", pairs.labels[stem], table))
    # sizes are compared as far as they are known without reading
    root.mkdir(parents=True, exist_ok=True)
    size, free = sum(_size(job.source) for job in jobs if not job.target.exists()), shutil.disk_usage(root).free
    if size > free:
        raise ValueError(f"{size / GIB:.1f} GiB are to be written to {root}, where {free / GIB:.1f} GiB are free")
    made = _run(official, jobs, workers, progress=progress)
    # lists of the splits, where folders do not define them
    if "{split}" not in data.images:
        for split, pairs in found.items():
            if pairs.complete:
                with atomic_write(root / f"{split}.txt") as part:
                    part.write_text("\n".join(pairs.complete) + "\n", encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    # counted in the finished tree, as training will find them
    images = {split: len(pairs.images) for split, pairs in found.items() if split in official.unlabelled}
    for split in found.keys() - images.keys():
        if found[split].complete:
            images[split] = len(find_pairs(replace(data, root=str(root), train_split=split), split))
    return Prepared({split: images[split] for split in found if split in images}, made, len(jobs) - made)


def _check_counts(
    official: Official, found: dict[str, SplitFiles], downloads: Sequence[Path], *, partial: bool
) -> None:
    """Compare with the official counts; a difference is an error or, with `partial`, a warning."""
    # the splits of these downloads that the recipes' tree must have
    used = {official.data.train_split, official.data.val_split} & official.counts.keys()
    issues: list[str] = []
    for split, count in official.counts.items():
        pairs = found.get(split, SplitFiles({}, {}))
        if split in found or split in used:
            labels = pairs.images if split in official.unlabelled else pairs.labels
            complete = len(pairs.images.keys() & labels.keys())
            if not complete == len(pairs.images) == len(labels) == count:
                issues.append(f"{split}: {len(pairs.images)} images and {len(labels)} labels of {count}")
    if not any(found[split].complete for split in used & found.keys()) or (issues and not partial):
        listed = "".join(f"\n  {issue}" for issue in issues)
        raise ValueError(
            f"{official.title} is not complete in {', '.join(map(str, downloads))}:{listed}\n"
            f"give {' and '.join(official.downloads)}, or folders they were unpacked to; --partial takes complete pairs"
        )
    for issue in issues:
        logger.warning("%s; only complete pairs are made", issue)


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else int(getattr(source, "size", 0))


def _run(official: Official, jobs: Sequence[Job], workers: int | None, *, progress: bool) -> int:
    """Run the jobs in threads and return the number of new files.

    Raises:
        ValueError: labels are bad; the message lists them.
    """
    issues: list[str] = []

    def attempt(job: Job) -> bool:
        try:
            return _make(job, official.read)
        except ValueError as error:
            issues.append(str(error))
            return False

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        # not all at once: a pool keeps a kilobyte for every job that waits, and COCO has 240,000
        begins = range(0, len(jobs), AT_ONCE)
        results = (result for begin in begins for result in pool.map(attempt, jobs[begin : begin + AT_ONCE]))
        with Progress("preparing", len(jobs), quiet=not progress) as bar:
            made = sum(bar.track(results))
    if issues:
        listed = "".join(f"\n  {issue}" for issue in sorted(issues)[:SHOWN])
        more = f"\n  … and {len(issues) - SHOWN} more" if len(issues) > SHOWN else ""
        raise ValueError(f"{len(issues)} files could not be made, all others were:{listed}{more}")
    return made


def _make(job: Job, read: Callable[[Source], Integer[np.ndarray, "H W"]] | None) -> bool:
    """Make one file, unless it exists and is whole; return whether it was made."""
    if job.target.is_file():
        # whole is an image of the source's size, and a label of the dataset's values
        with suppress(ValueError):
            if job.labels is None and _size(job.source) in (0, job.target.stat().st_size):
                return False
            if job.labels is not None and not _unknown_values(read_label(job.target).numpy(), job.labels):
                return False
    if job.labels is not None:
        values = read_label(job.source).numpy() if read is None else read(job.source)
        # a label is checked before it is written
        if unknown := _unknown_values(values, job.labels):
            raise ValueError(f"{job.source}: holds {unknown[:5]}, which are no values of the dataset; fetch it again")
        if read is not None:
            with atomic_write(job.target) as part:
                Image.fromarray(values.astype(np.uint8)).save(part, "PNG")
            return True
    with job.source.open("rb") as file, atomic_write(job.target) as part, part.open("wb") as out:
        shutil.copyfileobj(file, out)
    return True


def _unknown_values(values: Integer[np.ndarray, "H W"], classes: Classes) -> list[int]:
    return sorted(set(values[classes.encode(values) == UNKNOWN].tolist()))
