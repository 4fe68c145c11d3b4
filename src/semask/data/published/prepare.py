"""Turning official downloads into the tree that recipes read.

Files are named by us, written beside their place and moved there when whole; those that are there already stay, so that
a second call goes on where the first one ended. Every label is looked at, and pictures are counted, before and after.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer
from PIL import Image

from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.data.published.download import open_download
from semask.data.published.official import Found, Official, unknown_values
from semask.data.readers.image import read_label
from semask.data.readers.source import Source
from semask.files import atomic_write

logger = logging.getLogger(__name__)

SCRATCH = ".downloads"
"""Folder below the root for what is needed only while preparing."""
SHOWN = 10
AT_ONCE = 1024
"""Jobs that wait for threads."""
GIB = 2**30


class Job(NamedTuple):
    """A file to be made; `labels` are the class table of label files, None for pictures."""

    target: Path
    source: Source
    labels: Classes | None


class Prepared(NamedTuple):
    """What was done: pictures by split, files made, and files that were there."""

    pictures: dict[str, int]
    made: int
    kept: int


def prepare(
    official: Official,
    downloads: Sequence[Path],
    root: Path,
    *,
    partial: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Prepared:
    """Make the tree of a published dataset below `root`; `partial` takes whatever complete pairs are there.

    Raises:
        ValueError: a download is missing, damaged or unsafe; pictures or labels are missing, or a label holds values
            that the dataset has not; there is too little space.
    """
    scratch = root / SCRATCH
    files: dict[str, Source] = {}
    for number, path in enumerate(downloads):
        files |= {f"{number}/{name}": source for name, source in open_download(path, scratch=scratch).items()}
    found = official.gather(files)
    _check_counts(official, found, downloads, partial=partial)
    jobs = [job for split, pairs in found.items() for job in _jobs(official, split, pairs, root)]
    _check_space(jobs, root)
    made = _run(official, jobs, workers, progress=progress)
    _write_lists(official, found, root)
    shutil.rmtree(scratch, ignore_errors=True)
    return Prepared(_counted(official, found, root), made, len(jobs) - made)


def _check_counts(official: Official, found: dict[str, Found], downloads: Sequence[Path], *, partial: bool) -> None:
    """Compare with the official counts; what is missing is an error, or a warning and left out."""
    needed = [split for split in official.counts if split in found or split in _used(official)]
    problems: list[str] = []
    for split in needed:
        pairs = found.get(split, Found({}, {}))
        labels = pairs.images if split in official.unlabelled else pairs.labels
        complete = len(pairs.images.keys() & labels.keys())
        if not complete == len(pairs.images) == len(labels) == official.counts[split]:
            count = official.counts[split]
            problems.append(f"{split}: {len(pairs.images)} pictures and {len(labels)} labels of {count}")
    used = [found[split] for split in _used(official) & found.keys()]
    if not any(pairs.images.keys() & pairs.labels.keys() for pairs in used) or (problems and not partial):
        told = "".join(f"\n  {problem}" for problem in problems)
        raise ValueError(
            f"{official.title} is not complete in {', '.join(map(str, downloads))}:{told}\n"
            f"give {' and '.join(official.downloads)}, or folders they were unpacked to; --partial takes what is there"
        )
    for problem in problems:
        logger.warning("%s; only complete pairs are made", problem)


def _used(official: Official) -> set[str]:
    """Return the splits that the recipes' tree must have, of those that these downloads make."""
    return {official.data.train_split, official.data.val_split} & official.counts.keys()


def _jobs(official: Official, split: str, pairs: Found, root: Path) -> Iterator[Job]:
    data, table = official.data, Classes.load(str(official.data.classes))
    image_folder, label_folder = (root / pattern.replace("{split}", split) for pattern in (data.images, data.labels))
    for stem, image in sorted(pairs.images.items()):
        if split in official.unlabelled or stem in pairs.labels:
            suffix = data.image_suffix or PurePosixPath(image.name).suffix
            yield Job(image_folder / f"{stem}{suffix}", image, None)
        if stem in pairs.labels:
            yield Job(label_folder / f"{stem}{data.label_suffix}", pairs.labels[stem], table)


def _check_space(jobs: Sequence[Job], root: Path) -> None:
    """Refuse what does not fit onto the disk, as far as sizes are told without reading."""
    root.mkdir(parents=True, exist_ok=True)
    size = sum(_size(job.source) for job in jobs if not job.target.exists())
    free = shutil.disk_usage(root).free
    if size > free:
        raise ValueError(f"{size / GIB:.1f} GiB are to be written to {root}, where {free / GIB:.1f} GiB are free")


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else int(getattr(source, "size", 0))


def _run(official: Official, jobs: Sequence[Job], workers: int | None, *, progress: bool) -> int:
    """Do the jobs in threads and return how many files were made; one ValueError tells all bad labels."""
    problems: list[str] = []

    def attempt(job: Job) -> bool:
        try:
            return _make(job, official.read)
        except ValueError as error:
            problems.append(str(error))
            return False

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        # Not all at once: a pool keeps a kilobyte for every job that waits, and COCO has 240,000.
        begins = range(0, len(jobs), AT_ONCE)
        results = (result for begin in begins for result in pool.map(attempt, jobs[begin : begin + AT_ONCE]))
        made = sum(_shown(results, len(jobs)) if progress else results)
    if problems:
        told = "".join(f"\n  {problem}" for problem in sorted(problems)[:SHOWN])
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{len(problems)} files could not be made, all others were:{told}{more}")
    return made


def _make(job: Job, read: Callable[[Source], Integer[np.ndarray, "H W"]] | None) -> bool:
    """Make one file, unless it is there and whole; return whether it was made."""
    if job.target.is_file() and _is_whole(job):
        return False
    if job.labels is not None:
        values = read_label(job.source).numpy() if read is None else read(job.source)
        if unknown := unknown_values(values, job.labels):
            raise ValueError(f"{job.source}: holds {unknown[:5]}, which are no values of the dataset; fetch it again")
        if read is not None:
            with atomic_write(job.target) as part:
                Image.fromarray(values.astype(np.uint8)).save(part, "PNG")
            return True
    with job.source.open("rb") as file, atomic_write(job.target) as part, part.open("wb") as out:
        shutil.copyfileobj(file, out)
    return True


def _is_whole(job: Job) -> bool:
    """Whether a file that is there is what it was made as: a picture of its size, a label of the dataset's values."""
    if job.labels is None:
        size = _size(job.source)
        return not size or job.target.stat().st_size == size
    try:
        return not unknown_values(read_label(job.target).numpy(), job.labels)
    except ValueError:
        return False


def _write_lists(official: Official, found: dict[str, Found], root: Path) -> None:
    """Write the list of every split where folders do not tell them."""
    if "{split}" in official.data.images:
        return
    for split, pairs in found.items():
        complete = sorted(pairs.images.keys() & pairs.labels.keys())
        if complete:
            with atomic_write(root / f"{split}.txt") as part:
                part.write_text("\n".join(complete) + "\n", encoding="utf-8")


def _counted(official: Official, found: dict[str, Found], root: Path) -> dict[str, int]:
    """Count the pairs in the finished tree as training will find them."""
    counts: dict[str, int] = {}
    for split, pairs in found.items():
        data = replace(official.data, root=str(root), train_split=split)
        if split in official.unlabelled:
            counts[split] = len(pairs.images)
        elif pairs.images.keys() & pairs.labels.keys():
            counts[split] = len(find_pairs(data, split))
    return counts


def _shown(results: Iterator[bool], total: int) -> Iterator[bool]:
    """Pass results on behind a progress bar that vanishes when done."""
    from rich.console import Console
    from rich.progress import track

    yield from track(results, "preparing", total=total, console=Console(stderr=True), transient=True)
