"""Small videos that tests make: scenes with moving gradients, a sine as sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Size = tuple[int, int]


def scene(number: int, size: Size = (48, 64)) -> np.ndarray:
    """Image H W 3 of frame `number`."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x * 3 + number * 5, y * 4 + number * 3, x + y + number * 7], -1).astype(np.uint8)


def write_clip(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    fps: int = 10,
    times: Sequence[int] | None = None,
    unit: Fraction | None = None,
    turned: int | None = None,
    sound: str | None = None,
    codec: str = "libx264",
    **options: Any,
) -> Path:
    """Write images as a video; `times`: their time stamps in `unit`. `turned`: degrees of a display matrix."""
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "12", **options})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p" if codec != "libx264rgb" else "rgb24"
        unit = unit or Fraction(1, fps)
        stream.codec_context.time_base = unit
        if turned is not None:
            stream.set_display_rotation(turned)
        voice = container.add_stream(sound, rate=44100, layout="mono") if sound else None
        block = 0
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, unit
            while voice is not None and block * 1024 / 44100 <= frame.pts * unit:
                wave = np.sin((np.arange(1024) + block * 1024) * 440 * 2 * np.pi / 44100).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 44100, block * 1024, Fraction(1, 44100)
                container.mux(voice.encode(piece))
                block += 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            container.mux(voice.encode())
    return path


def read_clip(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Time [s] since the first frame and RGB of all frames."""
    with av.open(str(path)) as container:
        frames = [*container.decode(video=0)]
        first = frames[0].pts
        return [((each.pts - first) * each.time_base, each.to_ndarray(format="rgb24")) for each in frames]


def read_sound(path: Path) -> list[tuple[Fraction, bytes]]:
    """Time [s] since the video's first frame and bytes of all packets of sound."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        first = video.start_time * video.time_base
        packets = container.demux(container.streams.audio[0])
        return [(each.pts * each.time_base - first, bytes(each)) for each in packets if each.dts is not None]
