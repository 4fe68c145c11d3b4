"""A prediction run: items are read, segmented and written side by side, and a manifest says which are done."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from semask.data.readers.image import is_image
from semask.files import TEMPORARY, remove_stale, write_json
from semask.inference.engine import Engine, Loaded
from semask.inference.manifest import Line, Manifest
from semask.inference.regions import RegionImage
from semask.inference.rows import remove_state
from semask.inference.shards import write_shards
from semask.inference.sinks import FOLDERS, PREDICTIONS, Result, item_files, unfinished
from semask.inference.sources import Item
from semask.recipes.prediction import PredictOptions, Shard
from semask.text import Progress

OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors of the system that concern the name of one item: it is too long, or that of a folder."""
OF_ALL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors in reading that every later item would meet too."""
AHEAD = 4
"""Items read ahead of the model per thread; as many results may wait to be written."""
AT_ONCE = 4
"""Images that a CPU segments side by side, a share of its cores each; more take too much memory."""
SMALL = 2**21
"""Pixels of an image that is segmented beside others; larger ones keep all cores busy, and fill the memory."""


class Summary(NamedTuple):
    """What a run has done.

    done: items segmented now. earlier: by earlier runs. failed: images that could not be segmented, now or earlier, and
    the reasons. skipped: files that are no images, and the reasons. submission: what the files for a benchmark's server
    are.
    """

    done: int
    earlier: int
    failed: dict[str, str]
    skipped: dict[str, str]
    out: Path
    submission: str = ""


class Work:
    """The items of a run in order, from reading to writing.

    Threads read ahead and write behind. On a CPU, small images are segmented side by side in threads of their own:
    cores that share one image wait for each other at every layer. At most `AHEAD` items per thread wait between two
    steps, so that memory does not grow with their number.
    """

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self.engine, self.progress = engine, progress
        self.waited = 0.0
        # how much of a raster is done
        self.part = ""
        options, on_cpu = engine.options, engine.device.type == "cpu"
        self._threads = max(1, options.workers)
        # on a CPU a batch gains nothing, and the rounding of its images would depend on their company
        self._batch = 1 if on_cpu else engine.test.batch_size
        # the runtime of an exported file has threads of its own
        self._at_once = min(AT_ONCE, torch.get_num_threads()) if on_cpu and isinstance(engine.model, Module) else 1
        self._segmenting: deque[Future[list[Future[Line]]]] = deque()

    def lines(self, items: Iterable[Item]) -> Iterator[Line]:
        """Segment the items and yield their lines as they are finished.

        Raises:
            OSError: Results cannot be written, or a folder of images has vanished.
        """
        cores = torch.get_num_threads()
        writing: deque[Future[Line]] = deque()
        with (
            _pool(self._threads) as readers,
            _pool(self._threads) as writers,
            _pool(self._at_once, cores // self._at_once) as models,
        ):
            try:
                for batch in self._batches(self._read(items, readers)):
                    item, _, first = batch[0]
                    if not isinstance(first, Loaded) or isinstance(first.image, RegionImage):
                        yield (line := self._alone(item, first))
                        if line.error is None:
                            # the line is in the manifest by now
                            remove_state(unfinished(self.engine.options.out, item.name))
                    elif self._at_once > 1 and first.image[0].numel() <= SMALL:
                        self._segmenting.append(models.submit(self._segment, batch, writers))
                    else:
                        writing.extend(self._segment(batch, writers))
                    yield from self._finished(writing, self._at_once, AHEAD * self._threads)
                yield from self._finished(writing, 0, 0)
            except (OSError, KeyboardInterrupt):
                # what is written already counts
                for future in writing:
                    with suppress(OSError):
                        yield future.result()
                raise
            finally:
                for pool in (readers, models):
                    pool.shutdown(wait=False, cancel_futures=True)
                # new threads of the caller's would take the pools' number
                torch.set_num_threads(cores)

    def _finished(self, writing: deque[Future[Line]], segmenting_at_most: int, writing_at_most: int) -> Iterator[Line]:
        """Yield lines that are finished, and wait until no more than so many images are on their way."""
        segmenting = self._segmenting
        while segmenting and (len(segmenting) > segmenting_at_most or segmenting[0].done()):
            writing.extend(segmenting.popleft().result())
        while writing and (len(writing) > writing_at_most or writing[0].done()):
            yield writing.popleft().result()

    def _read(self, items: Iterable[Item], readers: ThreadPoolExecutor) -> Iterator[tuple[Item, float, Any]]:
        """Yield items with the time at which they began, and the image or the error that reading it gave."""
        todo = iter(items)
        reading: deque[tuple[Item, float, Future[Any]]] = deque()

        def read(item: Item) -> Any:
            try:
                return None if item.is_video else self.engine.load(item)
            except (ValueError, MemoryError, OSError) as error:
                return error

        while True:
            for item in itertools.islice(todo, AHEAD * self._threads - len(reading)):
                reading.append((item, time.perf_counter(), readers.submit(read, item)))
            if not reading:
                return
            item, began, future = reading.popleft()
            before = time.perf_counter()
            is_busy = any(not each.done() for each in self._segmenting)
            loaded = future.result()
            self.waited += 0 if is_busy else time.perf_counter() - before
            if isinstance(loaded, Loaded):
                # in the order of the items, whatever thread was first
                self.engine.note(item, loaded)
            yield item, began, loaded

    def _batches(self, loaded: Iterator[tuple[Item, float, Any]]) -> Iterator[list[tuple[Item, float, Any]]]:
        """Batches of images of one size and type; anything else is alone."""
        waiting: dict[Any, list[tuple[Item, float, Any]]] = {}
        for entry in loaded:
            image = entry[2].image if isinstance(entry[2], Loaded) else None
            if self._batch == 1 or not isinstance(image, Tensor):
                yield [entry]
                continue
            key = image.shape, image.dtype
            waiting.setdefault(key, []).append(entry)
            # a full batch, or the one that has waited longest
            if len(waiting[key]) == self._batch:
                yield waiting.pop(key)
            elif sum(map(len, waiting.values())) > AHEAD * self._batch:
                yield waiting.pop(next(iter(waiting)))
        yield from waiting.values()

    def _segment(self, batch: list[tuple[Item, float, Any]], writers: ThreadPoolExecutor) -> list[Future[Line]]:
        """Run the model on images of one size in memory, and hand the results to the writers."""
        try:
            results = self.engine.segment([loaded for _, _, loaded in batch])
        except (ValueError, MemoryError, RuntimeError, OSError) as error:
            if len(batch) == 1:
                return [writers.submit(self._failure, batch[0][0], error)]
            # one image must not fail the others, nor their number be too much for the memory
            return [future for entry in batch for future in self._segment([entry], writers)]
        return [
            writers.submit(self._save, item, result, began)
            for (item, began, _), result in zip(batch, results, strict=True)
        ]

    def _alone(self, item: Item, loaded: Any) -> Line:
        """The line of a video, of a raster that is read by region, or of what could not be read."""
        if isinstance(loaded, Exception):
            return self._failure(item, loaded, in_reading=True)
        try:
            if item.is_video:
                try:
                    from semask.inference.video import segment_video
                except ModuleNotFoundError as error:
                    raise ValueError("videos need the package `av`: pip install 'semask[video]'") from error

                return segment_video(self.engine, item, self._frames)
            return self.engine.segment_raster(item, loaded.image, self._rows)
        except (ValueError, MemoryError, RuntimeError, OSError) as error:
            return self._failure(item, error)

    def _save(self, item: Item, result: Result, began: float) -> Line:
        try:
            return self.engine.save(item, result, began)
        except (ValueError, OSError) as error:
            return self._failure(item, error)

    def _failure(self, item: Item, error: Exception, *, in_reading: bool = False) -> Line:
        """The line of an item that failed; errors that concern every item are raised."""
        message = str(error)
        # what every later item would meet too
        if item.place is not None and not item.place.parent.is_dir():
            raise OSError(
                errno.ENOENT, "the folder of images has vanished; go on once it is back", str(item.place.parent)
            )
        if not in_reading and isinstance(error, OSError) and error.errno not in OF_ONE_NAME:
            out = self.engine.options.out
            if error.filename is None or Path(str(error.filename)).is_relative_to(out):
                raise error
        if isinstance(error, OSError):
            message = error.strerror or message
        if in_reading and isinstance(error, OSError) and error.errno in OF_ALL:
            raise error
        if isinstance(error, MemoryError | RuntimeError):
            # torch has a class of its own for a GPU's memory alone
            if not isinstance(error, MemoryError) and "allocate" not in message:
                raise error
            message = "the memory is too small for this image at once; use windows (--test.mode sliding)"
        message = message.removeprefix(f"{item}: ")
        is_one = item.path is None or not os.access(item.path, os.R_OK) or is_image(item.path)
        more = {} if is_one else {"is_image": False}
        return Line(item.name, str(item), item.size, message, more=more, changed=item.changed)

    def _rows(self, rows: int, height: int) -> None:
        self.part = f", and {100 * rows // height} % of the next one's rows"
        self.progress.advance(0, f"{rows} of {height} rows")

    def _frames(self, frames: int, total: int | None) -> None:
        self.progress.advance(0, f"{frames} of {total or '?'} frames")


def run(engine: Engine, items: Sequence[Item], *, work: Work | None = None) -> Summary:
    """Segment the items of a shard that no earlier run has finished; a folder holds results of one kind.

    `work` does it; None does it here.

    Raises:
        ValueError: OUT holds results of other settings, another process works there, or two images would have one file
            of a submission.
        OSError: Results cannot be written, or the images have vanished; what is done is kept.
    """
    options, settings = engine.options, engine.settings
    shard = Shard.parse(options.shard)
    began = time.perf_counter()
    if engine.submission:
        engine.submission.check_names(item.name for item in items)
    manifest = Manifest(options.out, settings, shard, overwrite=options.overwrite)
    with closing(manifest):
        # in sub-folders at any depth
        remove_stale(part for name in FOLDERS for part in (options.out / name).rglob(TEMPORARY))
        mine = items[shard.number - 1 :: shard.total]
        todo = [item for item in mine if not _is_done(manifest, item, options)]
        done, lost = 0, 0
        if options.smooth > 1 and not any(item.is_video for item in items):
            engine.say("smooth", "--smooth has no effect: none of these is a video")
        with Progress("segmenting", len(todo)) as progress:
            work = work or Work(engine, progress)
            try:
                for line in work.lines(todo):
                    manifest.add(line)
                    done += line.error is None
                    lost += line.error is not None
                    work.part = ""
                    spent = max(time.perf_counter() - began, 1e-9)
                    waits = f"the model waits {100 * work.waited / spent:.0f} % of the time"
                    failures = f", {lost} failed or skipped" if lost else ""
                    progress.advance(1, f"{done / spent:.1f} images/s, {waits}{failures}")
            except (OSError, KeyboardInterrupt):
                share = f"{done} of {len(todo)}{work.part}"
                progress.console.print(f"done: {share}; the same command goes on from there")
                raise
        names = [item.name for item in items]
        manifest.write_summary(engine.classes.names, names)
        if options.pack:
            write_shards(options.out, shard, manifest, [item.name for item in mine], options.pack)
    lines = {name: manifest.lines[name] for name in names if name in manifest.lines}
    own = [lines[item.name] for item in mine if item.name in lines]
    failed = {line.source: line.error for line in own if line.error and line.is_image}
    skipped = {line.source: line.error for line in own if line.error and not line.is_image}
    seconds = time.perf_counter() - began
    _write_receipt(options, shard, settings, lines, seconds, work.waited)
    submission = engine.submission.summary() if engine.submission else ""
    earlier = sum(line.error is None for line in own) - done
    return Summary(done, earlier, failed, skipped, options.out, submission)


def _pool(threads: int, cores: int = 1) -> ThreadPoolExecutor:
    """Threads in which torch uses so many cores each; with all of them, they would slow the model's down."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores,))


def _is_done(manifest: Manifest, item: Item, options: PredictOptions) -> bool:
    """Whether an earlier run has finished this very file, or failed on it and nobody asks for another try."""
    line = manifest.lines.get(item.name)
    if line is None or (line.source, line.bytes, line.changed) != (str(item), item.size, item.changed):
        return False
    if line.error is not None:
        return not options.retry_failed
    if item.is_video:
        return (options.out / PREDICTIONS / item.name).is_dir()
    return any(item_files(options.out, item.name, (PREDICTIONS,)))


def _write_receipt(
    options: PredictOptions,
    shard: Shard,
    settings: dict[str, Any],
    lines: dict[str, Line],
    seconds: float,
    waited: float,
) -> None:
    """Write receipt.json: settings, counts, and one hash over all label maps, which two runs can compare."""
    from semask import __version__

    finished = sorted((line.item, line.labels) for line in lines.values() if line.error is None)
    text = "".join(f"{name} {labels}\n" for name, labels in finished)
    total = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    name = shard.manifest.replace("manifest", "receipt").replace(".jsonl", ".json")
    write_json(
        options.out / name,
        {
            "semask": __version__,
            "torch": torch.__version__,
            "settings": settings,
            "done": len(finished),
            "failed": sorted(line.item for line in lines.values() if line.error is not None and line.is_image),
            "labels": total,
            "seconds": round(seconds, 3),
            "model_waited": round(waited / max(seconds, 1e-9), 4),
        },
    )
