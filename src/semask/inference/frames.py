"""Frames of videos, image sequences, cameras and streams, one by one, with their time stamps and their sound."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import av
import numpy as np
from av.stream import Disposition
from torch import Tensor

from semask.data.readers.raster import read_raster, scale_samples
from semask.data.readers.source import MAX_PIXELS
from semask.inference.sources import SEQUENCE, STREAM, sequence_files
from semask.recipes.prediction import PredictOptions
from semask.recipes.recipe import DataRecipe

FILE_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mxf,ivf,yuv4mpegpipe"
"""Formats of files; playlists, which name other files, are not among them."""
STREAM_FORMATS = f"{FILE_FORMATS},hls,rtsp,rtp,sdp,live_flv,mpjpeg,mjpeg,aac,mp3"
STREAM_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,rtp,srtp,rtmp,rtmps,rtmpt,crypto"
"""Protocols of streams; files are not among them, which a playlist from elsewhere could name."""
TIMEOUT = 10.0
"""A stream that sends nothing for so long has ended [s]."""
QUEUE = 4
"""Frames decoded ahead of the model."""
NO_TIMES = ("mpeg", "mpegvideo", "m4v", "h264", "hevc")
"""Formats whose time stamps after a seek are a guess; they are decoded from the beginning."""
LOOK_BACK = (0, 10, 60)
"""Where a seek begins before the start [s]: some formats find no key frame at first."""
SEQUENCE_RATE = 25
"""Frames per second of an image sequence, as FFmpeg has it."""


Sound: TypeAlias = "av.Packet[av.AudioStream]"
"""A packet of sound, not decoded."""


class Frame(NamedTuple):
    """One frame: its number from the start on, its time stamp and duration [time base], and the image c H W."""

    number: int
    pts: int
    duration: int
    image: Tensor


class ImageSequence:
    """Numbered images as a video; each is read as a single image is."""

    is_live = drops = False
    sound: av.AudioStream | None = None
    aspect: Fraction | None = None
    dropped = 0
    ended = ""

    def __init__(self, source: str, data: DataRecipe, options: PredictOptions) -> None:
        self.rate = Fraction(SEQUENCE_RATE)
        self.time_base = 1 / self.rate
        files = sequence_files(Path(source))
        start, end = _moments(options)
        taken = [number for number in range(len(files)) if start <= number / self.rate < (end or len(files) + 1)]
        self._files, self._data, self._every = [files[number] for number in taken], data, options.every
        self.total: int | None = len(range(0, len(taken), options.every))
        self.lost = 0

    def entries(self) -> Iterator[Frame | Sound]:
        """Yield the frames that are taken."""
        for number in range(0, len(self._files), self._every):
            try:
                image = read_raster(self._files[number], self._data)
            except ValueError as error:
                self.lost += 1
                self.ended = str(error)
            else:
                yield Frame(number, number, self._every, image)

    def close(self) -> None:
        """Close nothing: every image is closed once it is read."""


class _Clock:
    """Time stamps from an origin on that only increase: streams may begin them anew, and some formats have none."""

    def __init__(self, origin: int | None, step: int) -> None:
        self.origin, self._step, self._shift = origin, step, 0
        self.last: int | None = None

    def read(self, pts: int | None) -> int:
        """The time stamp of the next frame."""
        if self.origin is None:
            self.origin = pts or 0
        after = 0 if self.last is None else self.last + self._step
        now = after if pts is None else pts - self.origin + self._shift
        if self.last is not None and now <= self.last:
            self._shift, now = self._shift + after - now, after
        self.last = now
        return now


class VideoFile:
    """A video file, a camera or a stream.

    rate: mean frames per second. time_base: unit of time stamps [s]. aspect: width of a pixel over its height, None if
    unknown. sound: the first of its audio streams. total: frames that are taken, None if unknown. lost: frames that
    could not be decoded. dropped: frames of a live source for which the model was too slow. ended: why a stream, or a
    damaged file, ended early.
    """

    def __init__(self, source: str, data: DataRecipe, options: PredictOptions) -> None:
        """Open a source.

        Raises:
            ValueError: It cannot be opened, is no video, or is too large.
        """
        if data.channels not in (1, 3):
            raise ValueError(f"a video has 3 channels, and the model reads {data.channels}; give it images instead")
        self._source, self._data, self._every = source, data, options.every
        self._start, self._end = _moments(options)
        self.is_live = not os.path.isfile(source)
        # packets of HTTP and TCP wait for their reader
        self.drops = self.is_live and not source.startswith(("http", "tcp"))
        self.lost = self.dropped = self._decoded_packets = 0
        self.ended = ""
        self._open()
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(SEQUENCE_RATE)
        self.rate, self.time_base = Fraction(rate), Fraction(self._stream.time_base or Fraction(1, 90_000))
        self._step = max(1, round(1 / self.rate / self.time_base))
        self._quarter_turns = 0
        # frames in the whole file, and those between start and end
        duration = _length(self._stream) or Fraction(self._container.duration or 0, av.time_base)
        length = max(Fraction(0), min(self._end or duration, duration) - self._start)
        self.total: int | None = None if self.is_live or not duration else -int(-length * self.rate // self._every)

    def _open(self) -> None:
        source, kind = self._source, None
        options: dict[str, str] = {}
        if not self.is_live:
            # a name such as a:b.mp4 has no protocol
            source = f"file:{source}"
            options = {"format_whitelist": FILE_FORMATS, "protocol_whitelist": "file"}
        elif STREAM.fullmatch(source):
            options = {"format_whitelist": STREAM_FORMATS, "protocol_whitelist": STREAM_PROTOCOLS}
            options["rtsp_flags"] = "prefer_tcp"
        else:
            kind = "v4l2"
        # also while the file is probed
        options["max_pixels"] = str(MAX_PIXELS)
        try:
            self._container = av.open(source, format=kind, options=options, timeout=TIMEOUT)
        except av.error.ExitError:
            raise ValueError(f"nothing came for {TIMEOUT:g} s; does the stream run?") from None
        except (av.error.InvalidDataError, av.error.ArgumentError):
            raise ValueError(
                f"is no video, or is damaged; formats are {FILE_FORMATS} (playlists only as streams)"
            ) from None
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"cannot be opened ({error.strerror})") from None
        # covers of songs are no videos
        streams = [each for each in self._container.streams.video if not each.disposition & Disposition.attached_pic]
        if not streams:
            others = len(self._container.streams)
            self._container.close()
            raise ValueError(f"has no video, only {others} other streams")
        self._stream = streams[0]
        self.sound = next(iter(self._container.streams.audio), None)
        self.aspect = self._stream.sample_aspect_ratio
        context = self._stream.codec_context
        height, width = context.height, context.width
        if height * width > MAX_PIXELS:
            self._container.close()
            raise ValueError(f"frames of {height}×{width} px; the limit is {MAX_PIXELS:,} px")
        context.options = {"max_pixels": options["max_pixels"]}

    def entries(self) -> Iterator[Frame | Sound]:
        """Yield the frames that are taken, and packets of sound between them; time stamps begin at the start."""
        clock, number, beyond = _Clock(self._stream.start_time, self._step), 0, False
        first = self._start / self.time_base
        for entry in self._from_start():
            if isinstance(entry, av.Packet):
                time = None if clock.origin is None else self._move(entry, clock.origin)
                if time is not None and self._start <= time < (self._end or time + 1):
                    yield entry
                elif beyond and time is not None and time >= self._start:
                    return
                continue
            pts = clock.read(entry.pts)
            if beyond or (self._start and pts < first):
                continue
            if self._end is not None and pts * self.time_base >= self._end:
                # sound may come later than the frames beside it
                beyond = True
                if self.sound is None or self.is_live:
                    return
                continue
            if number % self._every == 0:
                length = (entry.duration or self._step) * self._every
                yield Frame(number, pts - round(first), length, self._image(entry))
            number += 1
        # what the file promises and does not hold
        if self._stream.frames and not self._start:
            self.lost = max(self.lost, self._stream.frames - self._decoded_packets)
        elif clock.last is not None and (promised := _length(self._stream)):
            self.lost += max(0, round((promised - clock.last * self.time_base) * self.rate) - 1)

    def _move(self, packet: Sound, origin: int) -> Fraction | None:
        """The time of a packet of sound [s], 0 for the little before the video; its time stamps begin at the start."""
        unit = packet.time_base
        if packet.pts is None or packet.dts is None or unit is None:
            return None
        time = packet.pts * unit - origin * self.time_base
        moved = round((origin * self.time_base + self._start) / unit)
        packet.pts, packet.dts = packet.pts - moved, packet.dts - moved
        return time if self._start else max(time, Fraction(0))

    def _from_start(self) -> Iterator[av.VideoFrame | Sound]:
        """Decoded frames and packets from the last key frame before the start."""
        origin, known = self._stream.start_time or 0, self._stream.start_time is not None
        can_seek = self._start and not self.is_live and known and self._container.format.name not in NO_TIMES
        for back in LOOK_BACK if can_seek else ():
            target = max(Fraction(0), self._start - back)
            try:
                self._container.seek(origin + int(target / self.time_base), stream=self._stream)
                decoded, held = self._decoded(), []
                for entry in decoded:
                    held.append(entry)
                    if isinstance(entry, av.VideoFrame):
                        break
                shown = held[-1] if held else None
                if shown is not None and shown.pts is not None and shown.pts - origin <= self._start / self.time_base:
                    yield from itertools.chain(held, decoded)
                    return
            except av.FFmpegError:
                continue
        if self._start and not self.is_live:
            self._container.close()
            self._open()
        self.lost, self.ended, self._decoded_packets = 0, "", 0
        yield from self._decoded()

    def _decoded(self) -> Iterator[av.VideoFrame | Sound]:
        """Decoded frames, and packets of sound; what is damaged is counted."""
        streams = [each for each in (self._stream, self.sound) if each is not None]
        packets = self._container.demux(*streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.ExitError:
                self.ended = f"nothing came for {TIMEOUT:g} s"
                break
            except av.FFmpegError as error:
                self.ended = f"cannot be read further ({error.strerror})"
                break
            if packet.stream is self.sound:
                if packet.dts is not None:
                    yield cast(Sound, packet)
                continue
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self.lost += 1
                continue
            self._decoded_packets += packet.size > 0 and not packet.is_corrupt
            yield from frames
        # frames that wait in the decoder for later ones
        try:
            yield from self._stream.decode(None)
        except av.FFmpegError:
            self.lost += 1

    def _image(self, frame: av.VideoFrame) -> Tensor:
        """The frame as the model reads it, turned as a camera says."""
        pixels = frame.to_ndarray(format="rgb24" if self._data.channels == 3 else "gray")
        turns = round(frame.rotation / 90) % 4
        if turns % 2 != self._quarter_turns and self.aspect:
            self._quarter_turns, self.aspect = turns % 2, 1 / self.aspect
        stored = np.rot90(np.atleast_3d(pixels), turns).transpose(2, 0, 1)
        return scale_samples(stored, self._data.value_range)

    def close(self) -> None:
        """Close the file or the connection."""
        self._container.close()


Video = VideoFile | ImageSequence


def open_video(source: str, data: DataRecipe, options: PredictOptions) -> Video:
    """Open a video file, an image sequence, a camera or a stream."""
    is_sequence = not os.path.isfile(source) and not STREAM.fullmatch(source) and SEQUENCE.search(Path(source).name)
    return ImageSequence(source, data, options) if is_sequence else VideoFile(source, data, options)


def read_ahead(video: Video, stop: threading.Event) -> Generator[Frame | Sound]:
    """Yield the entries of a video, which a thread reads; at most `QUEUE` wait. `stop` ends it.

    A live source does not wait: frames that find no room are dropped.
    """
    ahead: queue.Queue[Any] = queue.Queue(QUEUE)

    def put(entry: object) -> None:
        while not stop.is_set():
            try:
                return ahead.put(entry, timeout=0.01 if video.drops else 0.2)
            except queue.Full:
                if video.drops and isinstance(entry, Frame):
                    video.dropped += 1
                    return None

    def read() -> None:
        try:
            for entry in video.entries():
                put(entry)
                if stop.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    thread = threading.Thread(target=read, name="decoder", daemon=True)
    thread.start()
    try:
        while not stop.is_set():
            try:
                entry = ahead.get(timeout=0.2)
            except queue.Empty:
                continue
            if entry is None:
                return
            if isinstance(entry, Exception):
                raise entry
            yield entry
    finally:
        stop.set()
        thread.join()
        video.close()


def _length(stream: av.VideoStream) -> Fraction:
    """The length [s] that a stream is said to have; 0 if unknown. Matroska has it as text: 00:00:10.040000000."""
    if stream.duration and stream.time_base and stream.container.format.name != "mpegts":
        return stream.duration * stream.time_base
    parts = stream.metadata.get("DURATION", "0").split(":")
    try:
        return sum((Fraction(part) * 60**place for place, part in enumerate(reversed(parts))), Fraction(0))
    except ValueError:
        return Fraction(0)


def _moments(options: PredictOptions) -> tuple[Fraction, Fraction | None]:
    """Start and end [s] as they are written: 0.1 is a tenth."""
    end = None if options.end is None else Fraction(str(options.end))
    return Fraction(str(options.start)), end
