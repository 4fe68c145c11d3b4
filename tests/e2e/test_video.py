"""Videos that are killed and resumed, and streams from a server that ends, stalls or goes on."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.predict import predict
from semask.inference import frames
from semask.models.build import build
from tests.facts import missing
from tests.unit.clips import read_clip, scene, write_clip

SMOOTH = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = build(recipes.get_recipe("scenes/semask-micro-fpn")).eval()
    torch.nn.init.normal_(model.decoder.classify.weight, std=3.0)
    return store.save(model, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [scene(number, (64, 96)) for number in range(40)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", images, sound="aac")


def segment(checkpoint: Path, clip: Path, out: Path) -> None:
    """Run in a process of its own."""
    torch.set_num_threads(1)
    predict(checkpoint, clip, out=out, smooth=SMOOTH, confidence=True, side_by_side=True)


def files(out: Path) -> dict[str, bytes]:
    """Bytes of all results; the manifest and the receipt have times."""
    found = (path for path in out.rglob("*") if path.is_file() and path.parent != out)
    return {str(path.relative_to(out)): path.read_bytes() for path in found if not path.name.endswith(".tmp")}


def kill_and_resume(checkpoint: Path, clip: Path, folder: Path, times: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semask.checkpoints.predict", "semask.inference.video"])
    whole = context.Process(target=segment, args=(checkpoint, clip, folder / "whole"))
    whole.start()
    whole.join(120)
    assert whole.exitcode == 0
    wanted, moments = files(folder / "whole"), random.Random(0)
    assert len(wanted) == 2 * 40 + 2
    kept = 0
    for number in range(times):
        out = folder / f"killed{number}"
        # at the start, between any two frames, while the video is finished
        least = moments.choice([0, 1, *range(2, 40, 3), 40])
        process = context.Process(target=segment, args=(checkpoint, clip, out))
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            if len([*out.glob("predictions/clip/*.png")]) >= least:
                break
            time.sleep(0.001)
        time.sleep(moments.random() * 0.05)
        assert process.pid is not None
        process.kill()
        process.join()
        # label maps are whole, videos appear when they are finished
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("predictions/clip/*.png")}
        assert all(
            wanted[name] == content for name, content in files(out).items() if not name.startswith(".unfinished")
        )
        again = context.Process(target=segment, args=(checkpoint, clip, out))
        again.start()
        again.join(120)
        assert again.exitcode == 0
        assert files(out) == wanted, number
        after = {path.name: path.stat().st_mtime_ns for path in out.glob("predictions/clip/*.png")}
        kept += len(before)
        assert all(after[name] == moment for name, moment in before.items())
        assert not (out / ".unfinished").exists()
        shutil.rmtree(out)
    assert kept > 0, "runs were killed before they had finished anything"


def test_killed_runs_give_the_same_bytes(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    kill_and_resume(checkpoint, clip, tmp_path, 3)


@pytest.mark.slow
def test_runs_killed_at_thirty_moments_give_the_same_bytes(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    kill_and_resume(checkpoint, clip, tmp_path, 30)


@contextmanager
def server(handler: Any) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def line(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])
    return values


def test_streams_over_http(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(clip, served / "clip.mp4")
    write_clip(served / "clip.ts", [scene(number, (64, 96)) for number in range(10)])
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    (served / "good.m3u8").write_text(playlist.format("clip.ts"))
    (served / "evil.m3u8").write_text(playlist.format(f"file://{served / 'clip.ts'}"))
    with server(partial(Quiet, directory=str(served))) as address:
        for name, count in (("clip.mp4", 12), ("clip.ts", 10), ("good.m3u8", 10)):
            assert predict(checkpoint, f"{address}/{name}", out=tmp_path / name, end=1.2).done == 1
            assert line(tmp_path / name)["more"]["frames"] == count
            (shown,) = (tmp_path / name / "overlays").glob("*.mp4")
            assert len(read_clip(shown)) == count
        # a playlist from elsewhere reads no files
        with pytest.raises(ValueError, match="none of the 1"):
            predict(checkpoint, f"{address}/evil.m3u8", out=tmp_path / "evil")
        with pytest.raises(ValueError, match="none of the 1"):
            predict(checkpoint, f"{address}/missing.ts", out=tmp_path / "missing")


class Endless(BaseHTTPRequestHandler):
    """Sends the same clip over and over, ten packets at a time; after `most` bytes nothing more."""

    content, most = b"", 10**9

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        sent = 0
        try:
            while sent < self.most:
                place = sent % len(self.content)
                sent += self.wfile.write(self.content[place : place + 1880])
                time.sleep(0.002)
            time.sleep(20)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


def test_a_live_stream_ends_by_an_interruption(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    ts = write_clip(tmp_path / "live.ts", [scene(number, (64, 96)) for number in range(40)])
    handler = type("Live", (Endless,), {"content": ts.read_bytes()})
    out = tmp_path / "o"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while len([*out.glob("predictions/*/*.png")]) < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with server(handler) as address:
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert predict(checkpoint, f"{address}/live.ts", out=out).done == 1
        thread.join()
    assert signal.getsignal(signal.SIGINT) == before
    more = line(out)["more"]
    assert (more["frames"] >= 60, more["ended"]) == (True, "interrupted")
    (shown,) = (out / "overlays").glob("*.mp4")
    decoded = read_clip(shown)
    assert len(decoded) == more["frames"] == len([*out.glob("predictions/*/*.png")])
    # the clip begins its time stamps anew
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(decoded))


def test_streams_that_stall_end(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "TIMEOUT", 1.5)
    ts = write_clip(tmp_path / "live.ts", [scene(number, (64, 96)) for number in range(40)], sound="mp2")
    content = ts.read_bytes()
    # half of it, then silence: what is there is kept
    with server(type("Stalls", (Endless,), {"content": content, "most": len(content) // 2})) as address:
        assert predict(checkpoint, f"{address}/live.ts", out=tmp_path / "o").done == 1
    more = line(tmp_path / "o")["more"]
    assert 5 < more["frames"] < 40
    assert not missing(more["ended"], "1.5")
    # silence from the beginning
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ValueError, match="none of the 1"):
            predict(checkpoint, address, out=tmp_path / "silent")
        assert time.monotonic() - began < 15
    assert not missing(line(tmp_path / "silent")["error"], "1.5")
