"""Videos through predict, against frame-by-frame decoding, and what is damaged or hostile."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from semask.checkpoints.predict import predict
from semask.inference import build_predictor, frames, video_file
from semask.inference.colours import numbered_classes, overlay
from semask.inference.frames import Frame, open_video, read_ahead
from semask.inference.sinks import Result
from semask.inference.sources import find_items, unique_names
from semask.inference.video import STILL, flicker
from semask.models.model import SegmentationModel
from semask.recipes.prediction import PredictOptions
from semask.recipes.recipe import DataRecipe, TestRecipe
from tests.facts import missing
from tests.unit.clips import read_clip, read_sound, scene, write_clip

SCENES = [scene(number) for number in range(30)]


def line(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])
    return values


def maps(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): np.array(Image.open(path)) for path in sorted(folder.iterdir())}


def scores(model: SegmentationModel, image: np.ndarray) -> torch.Tensor:
    assert model.recipe is not None
    predictor = build_predictor(model, model.recipe.test, model.recipe.data)
    with torch.inference_mode():
        return predictor(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)[0]


def test_labels_overlay_time_stamps_and_sound(model: SegmentationModel, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:12], sound="aac")
    summary = predict(model, clip, out=tmp_path / "o", legend=False, confidence=True, side_by_side=True)
    assert (summary.done, summary.failed) == (1, {})
    found, decoded = maps(tmp_path / "o/predictions/clip"), read_clip(clip)
    assert [*found] == [*range(12)]
    assert len(np.unique(np.stack([*found.values()]))) > 2, "a constant map would hide mistakes"
    shown = read_clip(tmp_path / "o/overlays/clip.mp4")
    pairs = read_clip(tmp_path / "o/side_by_side/clip.mp4")
    assert [time for time, _ in shown] == [time for time, _ in decoded] == [time for time, _ in pairs]
    assert pairs[0][1].shape == (96, 64, 3) or pairs[0][1].shape == (48, 128, 3)
    for number, (_, image) in enumerate(decoded):
        best = scores(model, image)
        assert np.array_equal(found[number], best.argmax(0).numpy()), number
        confidence = np.array(Image.open(tmp_path / f"o/confidence/clip/{number:06d}.png"))
        assert np.abs(confidence - best.softmax(0).amax(0).numpy() * 255).max() <= 1
        mixed = overlay(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(found[number]), numbered_classes(12))
        assert np.abs(shown[number][1].astype(int) - mixed.permute(1, 2, 0).numpy()).mean() < 12, number
    # the sound is the same, packet for packet
    sound, copied = read_sound(clip), read_sound(tmp_path / "o/overlays/clip.mp4")
    assert [each for _, each in sound] == [each for _, each in copied]
    assert all(abs(a - b) < Fraction(1, 1000) for (a, _), (b, _) in zip(sound, copied, strict=True))
    written = line(tmp_path / "o")
    assert (written["height"], written["width"], written["more"]["frames"], written["more"]["fps"]) == (48, 64, 12, 10)
    assert "lost" not in written["more"]
    counts = np.bincount(np.concatenate([each.ravel() for each in found.values()]), minlength=12) / (12 * 48 * 64)
    assert np.allclose([*written["shares"].values()], counts, atol=1e-5)
    assert not (tmp_path / "o/.unfinished").exists()
    # nothing is left to do
    assert predict(model, clip, out=tmp_path / "o", legend=False, confidence=True, side_by_side=True).earlier == 1


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video")],
)
def test_start_end_and_every_take_exact_frames(suffix: str, codec: str, tmp_path: Path) -> None:
    images = [scene(number) for number in range(100)]
    clip = write_clip(tmp_path / f"a.{suffix}", images, fps=25, codec=codec, sound="mp2")
    every: list[tuple[Fraction, torch.Tensor]] = []
    for start, end, step in ((0.0, None, 1), (1.64, 3.0, 1), (1.65, None, 3), (0.0, 0.4, 2), (3.9, None, 1)):
        options = PredictOptions(out=tmp_path, start=start, end=end, every=step)
        video = open_video(str(clip), DataRecipe(), options)
        entries = [*video.entries()]
        video.close()
        taken = [each for each in entries if isinstance(each, Frame)]
        if not every:
            every = [(each.pts * video.time_base, each.image) for each in taken]
            assert len(every) == 100
            continue
        low, high = Fraction(str(start)), 1000 if end is None else Fraction(str(end))
        wanted = [(time, image) for time, image in every if low <= time < high]
        assert [each.number for each in taken] == [*range(0, len(wanted), step)]
        for each in taken:
            assert torch.equal(each.image, wanted[each.number][1]), (start, each.number)
            assert abs(each.pts * video.time_base - (wanted[each.number][0] - low)) <= video.time_base
        for packet in entries:
            if isinstance(packet, av.Packet) and start:
                assert -0.001 <= packet.pts * packet.time_base < float(high - low)


def test_variable_rates_odd_sizes_and_names(model: SegmentationModel, tmp_path: Path) -> None:
    times = [number * number * 7 for number in range(8)]
    images = [scene(number, (45, 63)) for number in range(8)]
    # a colon, and a place for a number, are no protocol and no sequence
    clip = write_clip(tmp_path / "a:%d.mkv", images, times=times, unit=Fraction(1, 1000), codec="libx264rgb", qp="0")
    assert predict(model, clip, out=tmp_path / "o").done == 1
    shown = read_clip(tmp_path / "o/overlays/a:%d.mp4")
    assert [time * 1000 for time, _ in shown] == times
    assert shown[0][1].shape == (46, 64, 3)
    assert maps(tmp_path / "o/predictions/a:%d")[7].shape == (45, 63)


def test_turned_videos_are_upright(model: SegmentationModel, tmp_path: Path) -> None:
    """A phone stores the image on its side, and the angle by which it is to be turned, counter-clockwise."""
    for angle, turns in ((90, 1), (-90, 3), (180, 2)):
        stored = [np.rot90(image, -turns) for image in SCENES[:2]]
        clip = write_clip(tmp_path / f"t{turns}.mp4", stored, turned=angle, qp="0")
        video = open_video(str(clip), DataRecipe(), PredictOptions(out=tmp_path))
        image = next(each.image for each in video.entries() if isinstance(each, Frame))
        video.close()
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - SCENES[0].astype(int)).mean() < 12, angle
    assert predict(model, clip, out=tmp_path / "o").done == 1
    assert read_clip(tmp_path / "o/overlays/t2.mp4")[0][1].shape == (48, 64, 3)


def test_smoothed_labels_are_those_of_mean_probabilities(model: SegmentationModel, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:6])
    decoded = [image for _, image in read_clip(clip)]
    shares = torch.stack([scores(model, image).softmax(0) for image in decoded])
    wanted = [shares[max(0, number - 2) : number + 1].mean(0).argmax(0).numpy() for number in range(6)]
    single = [each.argmax(0).numpy() for each in shares]
    for name, changes in (("whole", {}), ("windows", {"window": (64, 64), "stride": (64, 64)})):
        assert predict(model, clip, out=tmp_path / name, smooth=3, overlay=False, **changes).done == 1
        found = maps(tmp_path / name / "predictions/clip")
        differ = [np.mean(found[number] != wanted[number]) for number in range(6)]
        assert max(differ) < 1e-3, (name, differ)
        assert np.mean(found[5] != single[5]) > 0.01, "smoothing changes labels"


def test_scores_of_windows_that_are_too_many_to_keep_are_refused(model: SegmentationModel, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:2])
    with pytest.raises(ValueError, match="none of the 1"):
        predict(model, clip, out=tmp_path / "o", smooth=1000, memory=0.1, window=(64, 64), stride=(64, 64))
    assert not missing(line(tmp_path / "o")["error"], "--smooth", "0.1")


def test_flicker_falls_with_smoothing(model: SegmentationModel, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    still = np.clip(SCENES[3].astype(int) // 2 + 60 + random.normal(0, 4, (10, 48, 64, 3)), 0, 255).astype(np.uint8)
    clip = write_clip(tmp_path / "noise.mp4", [*still], qp="0")
    shares = []
    for smooth in (1, 5):
        predict(model, clip, out=tmp_path / f"o{smooth}", smooth=smooth, overlay=False)
        shares.append(line(tmp_path / f"o{smooth}")["more"]["flicker"])
    assert 0 < shares[1] < 0.8 * shares[0]


def test_flicker_counts_changes_of_still_pixels_alone() -> None:
    random = np.random.default_rng(1)
    images = random.integers(100, 110, (2, 3, 7, 9))
    images[1, :, 2:5, 3:6] += 60
    labels = random.integers(0, 3, (2, 7, 9)).astype(np.uint8)
    before, after = (
        Result(each, torch.from_numpy(image).to(torch.uint8)) for each, image in zip(labels, images, strict=True)
    )
    changed = still = 0
    for row in range(7):
        for column in range(9):
            around = np.s_[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if np.abs(images[0][around] - images[1][around]).mean() < STILL:
                still += 1
                changed += labels[0, row, column] != labels[1, row, column]
    assert 10 < still < 60
    assert flicker(before, after) == (changed, still)


def test_image_sequences_with_gaps_and_a_broken_image(model: SegmentationModel, tmp_path: Path) -> None:
    for number in (7, 8, 10, 100, 101):
        Image.fromarray(SCENES[number % 30]).save(tmp_path / f"frame_{number:04d}.png")
    (tmp_path / "frame_0101.png").write_bytes(b"broken")
    (tmp_path / "frame_x.png").write_bytes(b"no number")
    assert predict(model, tmp_path / "frame_%04d.png", out=tmp_path / "o").done == 1
    found, written = maps(tmp_path / "o/predictions/frame"), line(tmp_path / "o")["more"]
    assert (written["frames"], written["lost"], written["fps"]) == (4, 1, 25)
    assert not missing(written["ended"], "frame_0101.png")
    for place, number in enumerate((7, 8, 10, 100)):
        assert np.array_equal(found[place], scores(model, SCENES[number % 30]).argmax(0).numpy())
    assert [float(time) for time, _ in read_clip(tmp_path / "o/overlays/frame.mp4")] == [0, 0.04, 0.08, 0.12]


def test_truncated_videos_keep_what_can_be_decoded(model: SegmentationModel, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", SCENES, container={"movflags": "faststart"})
    matroska = write_clip(tmp_path / "whole.mkv", SCENES)
    for path in (whole, matroska):
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
        assert predict(model, cut, out=tmp_path / f"o{path.suffix}").done == 1
        more, found = line(tmp_path / f"o{path.suffix}")["more"], maps(tmp_path / f"o{path.suffix}/predictions/cut")
        assert more["frames"] == len(found) == len(read_clip(tmp_path / f"o{path.suffix}/overlays/cut.mp4"))
        assert 5 < more["frames"] < 29
        # a packet that is cut in two may still be decoded
        assert 0 <= more["frames"] + more["lost"] - 30 <= 1
        for number in (0, 3):
            assert np.array_equal(found[number], scores(model, read_clip(path)[number][1]).argmax(0).numpy())


def test_files_that_are_no_videos_fail_and_leave_nothing(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = write_clip(tmp_path / "good.mp4", SCENES[:3])
    (source / "empty.mp4").touch()
    (source / "text.ts").write_text("let answer: number = 42;\n" * 50)
    (source / "headless.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    # playlists that name other files and the network
    (source / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{good.name}'\n")
    (source / "hls.ts").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{good}\n#EXT-X-ENDLIST\n")
    with (
        av.open(str(write_clip(tmp_path / "voice.mp4", SCENES[:9], sound="aac"))) as voice,
        av.open(str(source / "song.mp4"), "w") as song,
    ):
        stream = song.add_stream_from_template(voice.streams.audio[0])
        for packet in voice.demux(voice.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                song.mux(packet)
    (source / "large.mp4").write_bytes(write_clip(tmp_path / "l.mp4", [scene(0, (80, 90))]).read_bytes())
    (source / "good.mp4").write_bytes(good.read_bytes())
    monkeypatch.setattr(frames, "MAX_PIXELS", 48 * 64)
    summary = predict(model, source, out=tmp_path / "o")
    assert summary.done == 1
    failed = {Path(path).name: error for path, error in summary.failed.items()}
    assert sorted(failed) == ["empty.mp4", "headless.mp4", "hls.ts", "large.mp4", "list.mp4", "song.mp4", "text.ts"]
    assert not missing(failed["large.mp4"], "80×90", "3,072")
    assert not missing(failed["song.mp4"], 1)
    kept = sorted(str(each.relative_to(tmp_path / "o")) for each in (tmp_path / "o").rglob("*") if each.is_dir())
    assert kept == ["overlays", "predictions", "predictions/good"]
    assert [each.name for each in (tmp_path / "o/overlays").iterdir()] == ["good.mp4"]


def test_sizes_that_change_keep_their_label_maps(model: SegmentationModel, tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{n}.ts", [scene(i, size) for i in range(6)])
        for n, size in ((0, (48, 64)), (1, (64, 96)))
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert predict(model, both, out=tmp_path / "o", smooth=2).done == 1
    found, shown = maps(tmp_path / "o/predictions/both"), read_clip(tmp_path / "o/overlays/both.mp4")
    assert {each.shape for each in found.values()} == {(48, 64), (64, 96)}
    assert len(shown) == len(found) >= 11
    assert {image.shape for _, image in shown} == {(48, 64, 3)}
    assert all(a < b for (a, _), (b, _) in pairwise(shown))


def test_frames_of_other_options_and_other_files_are_not_kept(model: SegmentationModel, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4", SCENES[:6]), tmp_path / "o"
    image = tmp_path / "o/predictions/clip/seven.png"
    predict(model, clip, out=out)
    image.write_bytes(b"of somebody else")
    predict(model, clip, out=out, every=2, overwrite=True)
    assert sorted(path.name for path in image.parent.iterdir()) == [
        "000000.png",
        "000002.png",
        "000004.png",
        image.name,
    ]
    write_clip(clip, SCENES[10:13])
    assert predict(model, clip, out=out, every=2).done == 1
    assert sorted(path.name for path in image.parent.iterdir()) == ["000000.png", "000002.png", image.name]
    assert unique_names(["a.mp4", "A/000000.png", "b.mp4"]) == ["a.mp4", "A/000000", "b"]


def test_options_for_images_alone_fail(model: SegmentationModel, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:2])
    for number, changes in enumerate(({"labels": "tif"}, {"start": 5.0})):
        with pytest.raises(ValueError, match="none of the 1"):
            predict(model, clip, out=tmp_path / f"{number}", **changes)
        assert not missing(line(tmp_path / f"{number}")["error"], f"--{next(iter(changes))}")
        assert not [each for each in (tmp_path / f"{number}").iterdir() if each.is_dir()]
    for changes in ({"smooth": 0}, {"every": 0}, {"start": -1.0}, {"start": 2.0, "end": 2.0}):
        with pytest.raises(ValueError, match=f"--{[*changes][-1]}"):
            predict(model, clip, out=tmp_path / "o", **changes)
    with pytest.raises(ValueError, match="5"):
        open_video(str(clip), DataRecipe(channels=5), PredictOptions(out=tmp_path))


def test_builds_without_h264_and_sound_that_mp4_lacks(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1/90000 s is more than MPEG-4 part 2 counts
    clip = write_clip(tmp_path / "clip.ts", SCENES[:5], fps=30)
    voice = write_clip(tmp_path / "voice.avi", SCENES[:5], codec="mpeg4", sound="adpcm_ima_wav")
    monkeypatch.setattr(video_file, "CODECS", ("mpeg4",))
    assert predict(model, [clip, voice], out=tmp_path / "o").done == 2
    with av.open(str(tmp_path / "o/overlays/clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert [round(float(time) * 30, 2) for time, _ in read_clip(tmp_path / "o/overlays/clip.mp4")] == [0, 1, 2, 3, 4]
    with av.open(str(tmp_path / "o/overlays/voice.mp4")) as container:
        assert not container.streams.audio
    assert "adpcm" in capsys.readouterr().err


def test_live_sources_drop_frames_and_files_wait() -> None:
    """A slow model gets the newest frames of a camera, and all of a file."""
    for drops in (True, False):
        done = threading.Event()

        def entries(done: threading.Event = done) -> Iterator[Frame]:
            for number in range(60):
                yield Frame(number, number, 1, torch.zeros(3, 1, 1))
            done.set()

        video: Any = SimpleNamespace(entries=entries, drops=drops, dropped=0, close=lambda: None)
        taken = []
        for entry in read_ahead(video, threading.Event()):
            taken.append(entry)
            if drops and len(taken) == 1:
                done.wait(30)
        assert len(taken) + video.dropped == 60
        assert (video.dropped > 30) == drops


def test_cameras_and_addresses_are_videos(tmp_path: Path) -> None:
    items, _ = find_items(["0", "rtsp://host/street", "udp://127.0.0.1:1234"])
    assert [item.source for item in items] == ["/dev/video0", "rtsp://host/street", "udp://127.0.0.1:1234"]
    assert all(item.is_video and item.size is None for item in items)
    assert len({item.name for item in items}) == 3
    secret = find_items(["rtsp://me:word@10.0.0.1:554/street"])[0][0]
    assert (secret.name, str(secret), secret.source) == (
        "10_0_0_1_554_street", "rtsp://10.0.0.1:554/street", "rtsp://me:word@10.0.0.1:554/street",
    )  # fmt: skip
    with pytest.raises(ValueError, match="No such file"):
        open_video("/dev/video63", DataRecipe(), PredictOptions(out=tmp_path))


def test_one_predictor_for_windows(model: SegmentationModel, tmp_path: Path) -> None:
    """Windows without smoothing give the labels of single images."""
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:2])
    test = TestRecipe(mode="sliding", window=(32, 32), stride=(24, 24))
    predict(model, clip, out=tmp_path / "o", test=test, overlay=False)
    assert model.recipe is not None
    predictor = build_predictor(model, test, model.recipe.data)
    for number, (_, image) in enumerate(read_clip(clip)):
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        with torch.inference_mode():
            wanted = predictor.labels(batch)[0].numpy()
        assert np.array_equal(maps(tmp_path / "o/predictions/clip")[number], wanted)


def test_without_pyav_the_extra_is_named(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:2])
    Image.fromarray(SCENES[0]).save(tmp_path / "image.png")
    for name in ("av", "semask.inference.video", "semask.inference.video_file", "semask.inference.frames"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    summary = predict(model, [clip, tmp_path / "image.png"], out=tmp_path / "o")
    assert summary.done == 1
    assert not missing(summary.failed[str(clip)], "semask[video]")
