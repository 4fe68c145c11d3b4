"""Overlays as MP4: time stamps as in the source, its sound copied, the same bytes in every run."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import torch
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from torch import Tensor

from semask.inference.frames import Sound, Video
from semask.ops.resize import resize, to_float

CODECS = ("libx264", "mpeg4")
"""H.264 where the build of FFmpeg has it, else MPEG-4 part 2."""
QUALITY = {"preset": "veryfast", "crf": "20", "bf": "0"}
"""Of x264: without B-frames, whose reordering would delay time stamps."""
BITS = 0.15
"""Bits per pixel of MPEG-4 part 2."""
MPEG4_UNITS = 65_535
"""Units per second that MPEG-4 part 2 can count."""
BT_709 = 1
"""Matrix, primaries and transfer of HD video, as H.264 numbers them."""


class VideoWriter:
    """A video with the rate, the time stamps and the sound of another; it appears when it is closed."""

    def __init__(self, path: Path, part: Path, video: Video, size: tuple[int, int], say: Callable[[str], None]) -> None:
        """`part`: the file until it is whole. `size` (height, width) of the images [px]; odd ones are padded."""
        self.path, self._part, self._size = path, part, size
        name = next(name for name in CODECS if name in av.codecs_available)
        part.parent.mkdir(parents=True, exist_ok=True)
        # no versions and times in the file; its index at the front, so that browsers begin at once
        settings = {"fflags": "+bitexact", "movflags": "+faststart"}
        self._container = av.open(str(part), "w", format="mp4", container_options=settings)
        # one thread: the encoder's bytes depend on their number
        options = {"threads": "1", **(QUALITY if name == "libx264" else {})}
        rate = video.rate.limit_denominator(MPEG4_UNITS)
        self._stream = cast(av.VideoStream, self._container.add_stream(name, rate=rate, options=options))
        context = self._stream.codec_context
        context.height, context.width = (side + side % 2 for side in size)
        context.pix_fmt = "yuv420p"
        self._source_unit = self._unit = video.time_base
        if name == "mpeg4" and self._unit.denominator > MPEG4_UNITS:
            self._unit = Fraction(1, 60_000)
        context.time_base = self._unit
        context.colorspace = context.color_primaries = context.color_trc = BT_709
        context.color_range = ColorRange.MPEG
        if name != "libx264":
            context.bit_rate = int(BITS * context.height * context.width * max(1.0, float(video.rate)))
        if video.aspect:
            context.sample_aspect_ratio = video.aspect
        self._sound = None
        if video.sound is not None:
            try:
                self._sound = self._container.add_stream_from_template(video.sound)
            except ValueError:
                say(f"MP4 takes no sound of the kind {video.sound.codec_context.name}; the overlays have none")
        self._last = -1
        self._last_sound: int | None = None

    def write(self, image: UInt8[Tensor, "3 h w"], pts: int, duration: int) -> None:
        """Add an image; one of another size is resized."""
        if image.shape[-2:] != self._size:
            image = (resize(to_float(image)[None], self._size)[0] * 255).round().to(torch.uint8)
        height, width = self._size
        # even sides: the last row and column twice
        image = torch.cat([image, image[:, -1:][:, : height % 2]], dim=1)
        image = torch.cat([image, image[:, :, -1:][:, :, : width % 2]], dim=2)
        frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        scale = self._source_unit / self._unit
        self._last = max(self._last + 1, round(pts * scale))
        frame.pts, frame.duration, frame.time_base = self._last, round(duration * scale), self._unit
        self._container.mux(self._stream.encode(frame))

    def copy(self, packet: Sound) -> None:
        """Add a packet of sound as it is."""
        if self._sound is not None and (self._last_sound is None or (packet.dts or 0) > self._last_sound):
            self._last_sound = packet.dts
            packet.stream = self._sound
            self._container.mux(packet)

    def close(self) -> None:
        """Write what the encoder holds, and let the file appear."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._part, self.path)

    def abort(self) -> None:
        """Close the unfinished file."""
        self._container.close()
