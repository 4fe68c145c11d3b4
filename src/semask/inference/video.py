"""Videos: label maps frame by frame, overlays as a video, smoothing over time, and how much the labels flicker."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from semask.files import TEMPORARY, write_json
from semask.inference.colours import write_legend
from semask.inference.engine import Engine, Loaded, shown
from semask.inference.frames import Frame, Sound, Video, open_video, read_ahead
from semask.inference.manifest import Line, digest
from semask.inference.predictor import Pipeline
from semask.inference.rows import STATE, read_state, remove_state
from semask.inference.sinks import FOLDERS, FRAME, PREDICTIONS, UNFINISHED, Result, shares_of, unfinished
from semask.inference.sources import Item
from semask.inference.tta import Mean
from semask.inference.video_file import VideoWriter
from semask.ops.lazy_scores import InMemory, LazyScores, materialize
from semask.text import percent

STILL = 8
"""Mean absolute difference of RGB values, of 255, below which the image has not changed."""
BEHIND = 4
"""Frames per thread that wait to be written."""
KEPT = 4.0
"""Scores of windows that are kept for smoothing, where no --memory is given [GiB]."""


def segment_video(engine: Engine, item: Item, advance: Callable[[int, int | None], None]) -> Line:
    """Segment a video, and return its line in the manifest; once that is written, `rows.remove_state` ends the run.

    Label maps are predictions/NAME/000000.png, …, by the number of the frame from --start on. What a killed run has
    finished is kept if settings and file are the same; overlays are encoded anew from it. A live source ends by Ctrl-C.

    Raises:
        ValueError: Nothing can be decoded, or an option is not for videos.
    """
    options, began = engine.options, time.perf_counter()
    if options.labels not in ("auto", "png") or options.submission:
        flag = "--submission" if options.submission else f"--labels {options.labels}"
        raise ValueError(f"{flag} is for images; label maps of videos are PNG, leave it out")
    video = open_video(str(item.source), engine.data, options)
    folder, stop = unfinished(options.out, item.name), threading.Event()
    _begin(engine, item, folder, is_live=video.is_live)
    recorder = Recorder(engine, item, video, folder)
    finisher = _Finisher(engine, item, recorder)
    smoother = Smoother(engine)
    try:
        with _interruptible(video, stop), closing(read_ahead(video, stop)) as entries, torch.inference_mode():
            for entry in entries:
                if isinstance(entry, Frame):
                    loaded = Loaded(entry.image)
                    engine.note(item, loaded)
                    path = finisher.path(entry.number)
                    known = np.array(Image.open(path)) if path.is_file() else None
                    smoother.see(loaded)
                    result = smoother.segment() if known is None else Result(known, shown(loaded))
                    finisher.finish(entry, result, is_known=known is not None)
                    advance(recorder.frames, video.total)
                else:
                    finisher.copy(entry)
        finisher.close()
        if not recorder.frames:
            remove_state(folder)
            reason = f"; {video.ended}" if video.ended else ""
            raise ValueError(f"{item}: no frame could be decoded between --start and --end{reason}")
        recorder.close()
    except BaseException:
        finisher.cancel()
        recorder.abort()
        raise
    files = sorted(each for each in (options.out / PREDICTIONS / item.name).iterdir() if FRAME.fullmatch(each.name))
    return recorder.line(digest(files), time.perf_counter() - began)


class Smoother:
    """Label maps from the mean of the scores, or probabilities of logits, of a frame and the K - 1 before it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent: deque[tuple[Loaded, LazyScores | None]] = deque(maxlen=engine.options.smooth)
        # windows give their scores once, from the top down
        self._once = engine.test.mode == "sliding" or getattr(engine.model, "fixed_size", None) is not None

    def see(self, loaded: Loaded) -> None:
        """Take the next frame; one of another size begins anew."""
        if self._recent and self._recent[-1][0].image.shape != loaded.image.shape:
            self._recent.clear()
        self._recent.append((loaded, None))

    def segment(self) -> Result:
        """Segment the last frame; scores of earlier ones are computed only if a killed run had finished them."""
        loaded = self._recent[-1][0]
        if self._engine.options.smooth == 1:
            return self._engine.segment([loaded])[0]
        for place, (earlier, scores) in enumerate(self._recent):
            if scores is None:
                self._recent[place] = earlier, self._scores(earlier.image)  # type: ignore[arg-type]
        kept = tuple(scores for _, scores in self._recent if scores is not None)
        mean = Mean(kept, softmax=self._engine.predictor.scores_are_logits)
        return self._engine.segment([loaded], Pipeline(lambda images: mean, scores_are_logits=False))[0]

    def _scores(self, image: Tensor) -> LazyScores:
        lazy = self._engine.predictor.lazy_scores(image[None].to(self._engine.device))
        if not self._once:
            return lazy
        budget, smooth = self._engine.options.memory or KEPT, self._engine.options.smooth
        needed = float(np.prod(lazy.shape)) * 4 * smooth / 2**30
        if needed > budget:
            raise ValueError(
                f"--smooth {smooth} with windows keeps {needed:.1f} GiB of scores, and {budget:g} GiB are allowed; use "
                "a smaller --smooth, --test.mode whole, or more --memory"
            )
        return InMemory(materialize(lazy))


class Recorder:
    """Frames in order: their overlays in video files, the shares of the classes, and the flicker."""

    def __init__(self, engine: Engine, item: Item, video: Video, folder: Path) -> None:
        self._engine, self._item, self._video, self._folder = engine, item, video, folder
        self.frames, self.size = 0, (0, 0)
        self._counts = np.zeros(256, np.int64)
        self._before: Result | None = None
        self._changed = self._still = 0
        self._writers: dict[str, VideoWriter] = {}
        self._early: list[Sound] = []

    def add(self, frame: Frame, result: Result, mixed: Tensor | None) -> None:
        """Take a frame, and its overlay without legend."""
        self.size = self.size if self.frames else result.labels.shape
        self.frames += 1
        self._counts += np.bincount(result.labels[:].ravel(), minlength=256)
        if self._before is not None and self._before.labels.shape == result.labels.shape:
            changed, still = flicker(self._before, result)
            self._changed, self._still = self._changed + changed, self._still + still
        elif self._before is not None:
            self._engine.say(
                f"size {self._item.name}",
                f"{self._item}: the size changes to {'×'.join(map(str, result.labels.shape))} px at frame "
                f"{frame.number}; its label maps have it, overlays keep {'×'.join(map(str, self.size))} px",
            )
        self._before = result
        if mixed is None:
            return
        if self._engine.options.legend:
            # classes so far: a legend of each frame's own would jump
            seen = [index for index in self._engine.sinks.shown if self._counts[index]]
            write_legend(mixed, seen, self._engine.classes)
        for kind, view in self._engine.sinks.views(result.image, mixed).items():
            if kind not in self._writers:
                path = self._engine.options.out / kind / f"{self._item.name}.mp4"
                size = view.shape[-2], view.shape[-1]
                part = self._folder / f"{kind}.mp4"
                say = lambda text: self._engine.say(f"sound {self._item.name}", f"{self._item}: {text}")  # noqa: E731
                self._writers[kind] = VideoWriter(path, part, self._video, size, say)
            self._writers[kind].write(view, frame.pts, frame.duration)
        for packet in self._early:
            self.copy(packet)
        self._early.clear()

    def copy(self, packet: Sound) -> None:
        """Take a packet of sound."""
        if not self._writers:
            self._early.append(packet)
        for writer in self._writers.values():
            writer.copy(packet)

    def close(self) -> None:
        """Finish the video files."""
        for writer in self._writers.values():
            writer.close()

    def abort(self) -> None:
        """Close the unfinished files."""
        for writer in self._writers.values():
            writer.abort()

    def line(self, labels: str, seconds: float) -> Line:
        """The line in the manifest; also says how much the labels flicker, and what is missing."""
        video, options, item = self._video, self._engine.options, self._item
        more: dict[str, Any] = {"frames": self.frames, "fps": round(float(video.rate / options.every), 4)}
        parts = [f"{self.frames} frames"]
        if self._still:
            more["flicker"] = round(self._changed / self._still, 6)
            parts.append(f"labels flicker in {percent(more['flicker'])} % of still pixels")
        for name in ("lost", "dropped"):
            if count := getattr(video, name):
                more[name] = count
                parts.append(f"{count} frames {name}")
        if video.ended:
            more["ended"] = video.ended
            parts.append(f"ended: {video.ended}")
        self._engine.say(f"video {item.name}", f"{item}: {', '.join(parts)}")
        found = shares_of(self._counts, self._engine.classes)
        spent = round(seconds, 3)
        return Line(item.name, str(item), item.size, None, *self.size, labels, found, spent, more, item.changed)


class _Finisher:
    """Threads that write frames and mix overlays, and one that hands them to the recorder in order."""

    def __init__(self, engine: Engine, item: Item, recorder: Recorder) -> None:
        self._engine, self._item, self._recorder = engine, item, recorder
        self._most = BEHIND * max(1, engine.options.workers)
        self._writers, self._encoder = ThreadPoolExecutor(max(1, engine.options.workers)), ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def path(self, number: int) -> Path:
        """The label map of a frame."""
        return self._engine.options.out / PREDICTIONS / self._item.name / f"{number:06d}.png"

    def finish(self, frame: Frame, result: Result, *, is_known: bool) -> None:
        """Write the files of a frame, and its overlay after those of the frames before; waits if many wait already."""
        sinks, options = self._engine.sinks, self._engine.options

        def write() -> Tensor | None:
            if not is_known:
                sinks.write_maps(f"{self._item.name}/{frame.number:06d}", result)
            return sinks.mix(result, legend=False) if options.overlay or options.side_by_side else None

        writing = self._writers.submit(write)
        self._put(lambda: self._recorder.add(frame, result, writing.result()))

    def copy(self, packet: Sound) -> None:
        """Hand over a packet of sound."""
        self._put(lambda: self._recorder.copy(packet))

    def _put(self, step: Callable[[], None]) -> None:
        self._waiting.append(self._encoder.submit(step))
        while len(self._waiting) > self._most:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for everything."""
        while self._waiting:
            self._waiting.popleft().result()
        self.cancel()

    def cancel(self) -> None:
        """End the threads."""
        for pool in (self._encoder, self._writers):
            pool.shutdown(cancel_futures=True)


def flicker(before: Result, after: Result) -> tuple[int, int]:
    """Pixels whose class changes though the image does not, and pixels where the image does not change.

    The image has not changed where the absolute difference of its RGB values, 0 … 255, has a mean below `STILL` over
    3 × 3 pixels.
    """
    difference = (after.image.short() - before.image.short()).abs().float().mean(dim=0)
    around = F.avg_pool2d(difference[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    still = (around < STILL).numpy()
    return int(((before.labels[:] != after.labels[:]) & still).sum()), int(still.sum())


def _begin(engine: Engine, item: Item, folder: Path, *, is_live: bool) -> None:
    """Remove what earlier runs left, unless it is of this file and these settings."""
    key = json.loads(json.dumps(engine.key(item)))
    same = not is_live and read_state(folder) == key
    for kind in FOLDERS:
        place = engine.options.out / kind / item.name
        for path in [*place.iterdir()] if place.is_dir() and kind != UNFINISHED else ():
            if (FRAME.fullmatch(path.name) and not same) or path.match(TEMPORARY):
                path.unlink()
    if not same:
        write_json(folder / STATE, key)


@contextmanager
def _interruptible(video: Video, stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C ends a live source in good order; the next one ends the run."""
    if not video.is_live or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def end(number: int, frame: FrameType | None) -> None:
        video.ended = "interrupted"
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
