"""Prediction runs: what is done stays done, whatever interrupts them and however the work is shared."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import semask
from semask import recipes
from semask.cli import main as cli
from semask.inference import tiles
from semask.inference.engine import Engine, Loaded
from semask.inference.manifest import Line, Manifest
from semask.inference.rows import RowStore
from semask.inference.runner import Work
from semask.inference.sinks import Result, unfinished
from semask.inference.sources import Item, find_items, unique_names
from semask.inference.tiles import TilePlan
from semask.recipes.prediction import PredictOptions, Shard
from semask.text import Progress
from tests.facts import facts, missing
from tests.unit.stored import make_tar, make_zip

OURS = ("manifest", "receipt", ".manifest")
"""Beginnings of files that tell when and how long, and so differ between runs."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(12):
        size = (60, 90) if number % 3 else (48, 70)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        path = folder / f"{'ab'[number % 2]}/{number:02d}.{'png' if number % 4 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run's results but those that hold times; hidden ones too, since none may be left."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(OURS)]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def lines(out: Path) -> list[dict[str, object]]:
    found = [line for path in sorted(out.glob("manifest*.jsonl")) for line in path.read_text().splitlines()]
    return [values for values in map(json.loads, found) if "settings" not in values]


def receipt(out: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((out / "receipt.json").read_text())
    return values


OPTIONS = {"confidence": True, "entropy": True, "rle": True, "probabilities": True, "side_by_side": True, "prior": True}


@pytest.fixture(scope="module")
def whole(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert semask.predict(checkpoint, images, out, **OPTIONS)[:4] == (12, 0, {}, {})
    return out


@pytest.mark.parametrize("count", [2, 7])
def test_shards_write_the_same_bytes(checkpoint: Path, images: Path, whole: Path, tmp_path: Path, count: int) -> None:
    done = []
    for number in range(count, 0, -1):
        summary = semask.predict(checkpoint, images, tmp_path, shard=f"{number}/{count}", workers=number, **OPTIONS)
        done.append(summary.done)
    assert sum(done) == 12
    assert max(done) - min(done) <= 1
    assert contents(tmp_path) == contents(whole)
    receipts = [json.loads(path.read_text()) for path in tmp_path.glob("receipt*.json")]
    assert receipt(whole)["labels"] in [each["labels"] for each in receipts]
    with pytest.raises(ValueError, match=facts("--shard", "3/2")):
        semask.predict(checkpoint, images, tmp_path, shard="3/2")


def test_a_second_run_does_what_is_left(checkpoint: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(images / "a", source / "a")
    first = semask.predict(checkpoint, source, tmp_path / "out", **OPTIONS)
    assert (first.done, first.earlier) == (6, 0)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/predictions").rglob("*.png")}
    shutil.copytree(images / "b", source / "b")
    second = semask.predict(checkpoint, source, tmp_path / "out", **OPTIONS)
    assert (second.done, second.earlier) == (6, 6)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path / "out") == contents(whole)
    assert receipt(tmp_path / "out")["labels"] == receipt(whole)["labels"]
    # an image that was replaced, and one whose result was removed
    shutil.copy(images / "b/01.png", source / "a/02.png")
    next((tmp_path / "out/predictions/b").glob("*.png")).unlink()
    assert semask.predict(checkpoint, source, tmp_path / "out", **OPTIONS)[:2] == (2, 10)
    assert {line["item"] for line in lines(tmp_path / "out")} == {f"{'ab'[n % 2]}/{n:02d}" for n in range(12)}


def test_results_of_other_settings_are_never_mixed(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    place = ["predict", str(checkpoint), str(images / "a"), "--out", str(tmp_path), "--overlay", "false"]
    assert cli.main(place) == 0
    with pytest.raises(ValueError, match=facts("test.flip", "--overwrite")):
        semask.predict(checkpoint, images / "a", tmp_path, overlay=False, flip=True)
    other = semask.build(recipes.get_recipe("scenes/semask-micro-fpn"))
    with pytest.raises(ValueError, match=facts("weights", "--overwrite")):
        semask.predict(other, images / "a", tmp_path, overlay=False)
    before = contents(tmp_path)
    assert semask.predict(other, images / "a", tmp_path, overlay=False, overwrite=True).done == 6
    assert contents(tmp_path) != before
    assert len(lines(tmp_path)) == 6


def test_failures_are_remembered_and_tried_again_on_request(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    shutil.copytree(images / "a", source)
    whole = (source / "02.png").read_bytes()
    (source / "02.png").write_bytes(whole[:300] + b"\0" * (len(whole) - 300))
    place = ["predict", str(checkpoint), str(source), "--out", str(tmp_path / "out")]
    assert cli.main(place) == 1
    shown = capsys.readouterr().err
    assert missing(shown, source / "02.png", "--retry-failed") == []
    assert shown.count("02.png") == 1
    # remembered: nothing is read, and the status stays
    assert cli.main(place) == 1
    assert cli.main([*place, "--keep-going"]) == 0
    assert cli.main([*place, "--retry-failed"]) == 1
    # the same size, written later: another file
    (source / "02.png").write_bytes(whole)
    assert cli.main(place) == 0
    assert (tmp_path / "out/predictions/02.png").is_file()


def test_half_a_line_of_a_manifest_is_no_line(checkpoint: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    manifest = out / "manifest.jsonl"
    text = manifest.read_bytes()
    for cut in (len(text) - 5, len(text) // 2, 40):
        manifest.write_bytes(text[:cut])
        semask.predict(checkpoint, images, out, **OPTIONS)
        assert len(lines(out)) == 12
        assert contents(out) == contents(whole)
    manifest.write_text("no JSON\n")
    with pytest.raises(ValueError, match=facts("manifest.jsonl", "--out")):
        semask.predict(checkpoint, images, out, **OPTIONS)


def test_one_folder_has_one_writer(tmp_path: Path) -> None:
    first = Manifest(tmp_path, {}, Shard())
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path)), "--shard")):
        Manifest(tmp_path, {}, Shard())
    Manifest(tmp_path, {}, Shard(2, 3)).close()
    first.close()
    Manifest(tmp_path, {}, Shard()).close()


def test_a_run_without_space_keeps_what_is_done(checkpoint: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    """The largest size of a file stands for a full disk: the first overlay beyond it cannot be written."""
    largest = max((path for path in (whole / "predictions").rglob("*.png")), key=lambda path: path.stat().st_size)
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({largest.stat().st_size - 1}, resource.RLIM_INFINITY))
from semask.cli.main import main
sys.exit(main({["predict", str(checkpoint), str(images), "--out", str(tmp_path), "--overlay", "false"]!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert missing(ended.stderr, 12) == []
    assert not [*tmp_path.rglob("*.tmp")]
    left = semask.predict(checkpoint, images, tmp_path, overlay=False)
    assert left.done + left.earlier == 12
    predictions = {name: content for name, content in contents(whole).items() if name.startswith("predictions/")}
    assert {name: found for name, found in contents(tmp_path).items() if name.startswith("predictions/")} == predictions


def test_a_folder_that_vanishes_fails_no_image(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(images, source)
    model = semask.load(checkpoint)
    calls = []

    def vanish(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            shutil.rmtree(source)

    hook = model.encoder.register_forward_hook(vanish)
    with pytest.raises(OSError, match=facts(str(source))):
        semask.predict(model, source, tmp_path / "out", workers=1)
    hook.remove()
    assert lines(tmp_path / "out")
    assert not [line for line in lines(tmp_path / "out") if "error" in line]
    shutil.copytree(images, source)
    summary = semask.predict(model, source, tmp_path / "out")
    assert (summary.done + summary.earlier, summary.failed) == (12, {})


def killed_and_resumed(command: list[str], out: Path, delays: list[float]) -> int:
    """Kill a command after each delay [s] from its first result on; return how many kills met it running."""
    met = 0
    for delay in delays:
        process = subprocess.Popen([sys.executable, "-m", "semask.cli.main", *command], stderr=subprocess.DEVNULL)
        waited = time.monotonic()
        while not (out / "manifest.jsonl").exists() and process.poll() is None and time.monotonic() < waited + 60:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        met += process.wait() == -signal.SIGKILL
        # whatever is visible is whole
        for path in out.rglob("*.png"):
            if not path.name.startswith("."):
                Image.open(path).load()
    return met


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_killed_run_goes_on_to_the_same_bytes(checkpoint: Path, images: Path, tmp_path: Path, kills: int) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for copy in range(4 if kills < 10 else 20):
        shutil.copytree(images, source / str(copy))
    semask.predict(checkpoint, source, tmp_path / "whole")
    command = ["predict", str(checkpoint), str(source), "--out", str(out)]
    delays = np.random.default_rng(kills).uniform(0.02, 0.5 if kills < 10 else 4.0, kills).tolist()
    assert killed_and_resumed(command, out, delays) > 0
    assert cli.main(command) == 0
    left = {name for name in contents(out) if name.endswith(".tmp")}
    assert {name: found for name, found in contents(out).items() if name not in left} == contents(tmp_path / "whole")


def test_sources_of_every_kind(images: Path, tmp_path: Path) -> None:
    every = sorted(path.relative_to(images).with_suffix("").as_posix() for path in images.rglob("*.*"))

    def names(*given: str | Path) -> list[str]:
        return sorted(item.name for item in find_items(given)[0])

    assert names(images) == every
    assert names(*(images / "a").iterdir()) == sorted(name.removeprefix("a/") for name in every if name[0] == "a")
    assert names(f"{images}/**/*.jpg") == [n for n in every if (images / f"{n}.jpg").exists()]
    members = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.*")}
    members["a/00.json"] = b"{}"
    assert names(make_zip(tmp_path / "set.zip", members)) == every
    assert names(make_tar(tmp_path / "set.tar", members)) == every
    listed = tmp_path / "list.txt"
    listed.write_text("# chosen\n" + "\n".join(str(path) for path in sorted(images.rglob("*.png"))) + "\n")
    assert names(listed) == [name for name in every if (images / f"{name}.png").exists()]
    packed = tmp_path / "set.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "set.tar").read_bytes()))
    with pytest.raises(ValueError, match=facts(packed, "gzip")):
        find_items([packed])
    # two sources with equal names
    assert names(images / "a", images / "a")[:2] == ["00.jpg", "00.jpg-2"]
    # a data set's labels are no images
    data = tmp_path / "data"
    shutil.copytree(images / "a", data / "images")
    shutil.copytree(images / "b", data / "labels")
    items, notes = find_items([data])
    assert {item.path.parent.name for item in items if item.path} == {"images"}
    assert missing("".join(notes), data, "images/", "labels/") == []
    for wrong in (tmp_path / "none", f"{tmp_path}/*.gif"):
        with pytest.raises(ValueError, match=facts(repr(str(wrong)))):
            find_items([wrong])
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "pipe.png"):
        listed.write_text(name + "\n")
        with pytest.raises(ValueError, match=facts("list.txt", name, 1)):
            find_items([listed])


def test_archives_give_the_labels_of_their_files(checkpoint: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    members = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.*")}
    archive = make_zip(tmp_path / "set.zip", members)
    semask.predict(checkpoint, archive, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == contents(whole)


def test_measures_are_those_of_the_scores(checkpoint: Path, images: Path, whole: Path) -> None:
    model = semask.load(checkpoint)
    path = images / "b/01.png"
    with torch.inference_mode():
        scores = model.scores(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255)
    shares = scores[0].softmax(0)
    stored = np.load(whole / "probabilities/b/01.npz")["probabilities"]
    assert stored.dtype == np.float16
    assert np.abs(stored - shares.numpy()).max() < 1e-3
    confidence = np.array(Image.open(whole / "confidence/b/01.png"))
    assert np.abs(confidence - shares.amax(0).numpy() * 255).max() <= 0.51
    entropy = torch.special.entr(shares).sum(0) / np.log(12)
    assert np.abs(np.array(Image.open(whole / "entropy/b/01.png")) - entropy.numpy() * 255).max() <= 0.51
    # run lengths by pycocotools
    from pycocotools import mask as coco

    labels = np.array(Image.open(whole / "predictions/b/01.png"))
    for entry in json.loads((whole / "rle/b/01.json").read_text())["annotations"]:
        found = coco.decode({**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()})
        assert np.array_equal(found == 1, labels == entry["category_id"])
        assert entry["area"] == (labels == entry["category_id"]).sum()
    [line] = [line for line in lines(whole) if line["item"] == "b/01"]
    counts = np.bincount(labels.ravel(), minlength=12) / labels.size
    assert np.allclose([*line["shares"].values()], counts, atol=1e-6)  # type: ignore[attr-defined]


def test_options_are_checked(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts("overlays", "overlay")):
        semask.predict(checkpoint, images, tmp_path, overlays=False)
    with pytest.raises(ValueError, match=facts("out")):
        semask.predict(checkpoint, images)
    for flag, value in (("alpha", 2), ("workers", -1), ("memory", 0), ("every", 0), ("valid_border", -1)):
        with pytest.raises(ValueError, match=facts(f"--{flag.replace('_', '-')}", value)):
            semask.predict(checkpoint, images, options=PredictOptions(out=tmp_path, **{flag: value}))
    assert not [*tmp_path.iterdir()]


def noise(path: Path, seed: int = 0, size: tuple[int, int] = (40, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def test_a_pattern_does_not_find_results(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise(tmp_path / "a/1.png")
    for expected in ((1, 0), (0, 1)):
        assert semask.predict(checkpoint, "**/*.png", tmp_path / "out")[:2] == expected


def test_names_stay_below_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "b/y.png"):
        noise(tmp_path / name)
    found = [item.name for item in find_items([f"{tmp_path}/*/../b/*.png"])[0]]
    assert sorted(found) == ["y.png", "y.png-2"]
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr/zarr.json").write_text("{}")
    assert [item.name for item in find_items([f"{tmp_path}/*.zarr"])[0]] == ["s"]
    monkeypatch.chdir(tmp_path / "s.zarr")
    assert [item.name for item in find_items(["."])[0]] == ["s"]
    assert [item.name for item in find_items(["rtsp://user:word@/"])[0]] == ["stream"]
    # a number may be in another name already
    assert unique_names(["x.png", "x.png", "x.png-2"]) == ["x.png", "x.png-3", "x.png-2"]
    # names of rasters may be folders of others
    places = [unfinished(tmp_path, name) for name in ("a", "a/b")]
    assert not places[1].is_relative_to(places[0])


def test_names_of_any_bytes_and_lengths(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in (b"\xff.png", b"n" * 251 + b".png", b"whole.png"):
        source.mkdir(exist_ok=True)
        shutil.copy(images / "a/02.png", os.fsencode(source) + b"/" + name)
    summary = semask.predict(checkpoint, source, out, rle=True, pack=2)
    assert (summary.done, len(summary.failed)) == (2, 1)
    assert len((out / "summary.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert receipt(out)["done"] == 2
    assert semask.predict(checkpoint, source, out, rle=True)[:2] == (0, 2)


def test_a_shard_may_have_no_image(checkpoint: Path, tmp_path: Path) -> None:
    noise(tmp_path / "a.png")
    place = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert cli.main([*place, "--shard", "2/2"]) == 0
    assert lines(tmp_path / "out") == []


def test_the_newest_line_of_an_item_counts(checkpoint: Path, tmp_path: Path) -> None:
    """manifest.jsonl comes after manifest.1-of-2.jsonl in the order of names."""
    whole = noise(tmp_path / "in/a.png").read_bytes()
    noise(tmp_path / "in/b.png", 1)
    state = (tmp_path / "in/a.png").stat()
    (tmp_path / "in/a.png").write_bytes(whole[:100] + b"\0" * (len(whole) - 100))
    os.utime(tmp_path / "in/a.png", ns=(state.st_mtime_ns, state.st_mtime_ns))
    out = tmp_path / "out"
    assert semask.predict(checkpoint, tmp_path / "in", out)[0] == 1
    (tmp_path / "in/a.png").write_bytes(whole)
    os.utime(tmp_path / "in/a.png", ns=(state.st_mtime_ns, state.st_mtime_ns))
    summary = semask.predict(checkpoint, tmp_path / "in", out, shard="1/2", retry_failed=True)
    assert (summary.done, summary.failed) == (1, {})
    assert [row.partition(",")[0] for row in (out / "summary.csv").read_text().splitlines()] == ["item", "a", "b"]
    assert semask.predict(checkpoint, tmp_path / "in", out)[:3] == (0, 2, {})


def test_summary_and_receipt_are_of_the_images_given(checkpoint: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "in"

    def items(*given: Path, **options: Any) -> list[str]:
        summary = semask.predict(checkpoint, given, out, **options)
        rows = (out / "summary.csv").read_text().splitlines()[1:]
        if not options:
            assert receipt(out)["done"] == len(rows) == summary.done + summary.earlier
        return [row.partition(",")[0] for row in rows]

    noise(source / "a.png")
    gone = noise(source / "b.png", 1)
    assert items(source) == ["a", "b"]
    gone.rename(source / "c.png")
    assert items(source) == ["a", "c"]
    semask.predict(checkpoint, source, tmp_path / "fresh")
    assert receipt(out)["labels"] == receipt(tmp_path / "fresh")["labels"]
    assert items(noise(tmp_path / "more/d.png")) == ["d"]
    # what earlier calls have done stays done, for shards too
    assert items(source) == ["a", "c"]
    assert items(source, tmp_path / "more", shard="2/3") == ["a", "c", "d"]


def test_flags_without_effect_are_named_once(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["predict", str(checkpoint), str(images / "a"), "--out"]
    assert cli.main([*place, str(tmp_path / "a"), "--seams", "--smooth", "3"]) == 0
    shown = capsys.readouterr().err
    assert [shown.count(flag) for flag in ("--seams", "--smooth")] == [1, 1]
    assert cli.main([*place, str(tmp_path / "b")]) == 0
    assert not {"--seams", "--smooth"} & {*capsys.readouterr().err.split()}


def test_a_plan_reads_headers_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(noise(folder / "a.png")).save(folder / "b.jpg", exif=turned)
    upright = np.zeros((30, 20, 3), np.uint8)
    tifffile.imwrite(folder / "c.tif", upright, photometric="rgb", extratags=[(0x0112, 3, 1, 6, True)])
    monkeypatch.setattr("semask.inference.engine.read_raster", None)
    assert semask.predict(checkpoint, folder, tmp_path / "out", plan=True)[:2] == (0, 0)
    shown = capsys.readouterr().err.splitlines()
    for name, size in (("a.png", "40×50"), ("b.jpg", "50×40"), ("c.tif", "20×30")):
        assert [missing(line, size) for line in shown if name in line] == [[]]


def test_reasons_name_flags_of_training_for_training_alone(checkpoint: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "bands.tif", random.integers(0, 255, (5, 40, 50), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "floats.tif", random.random((40, 50, 3), np.float32), photometric="rgb")
    Image.fromarray(random.integers(0, 255, (40, 50, 4), np.uint8)).save(tmp_path / "infrared.png")
    summary = semask.predict(checkpoint, [tmp_path, noise(tmp_path / "in/a.png")], tmp_path / "out")
    flags = {"bands.tif": "--data.channels 5", "floats.tif": "--data.value-range", "infrared.png": "--data.channels 4"}
    assert {Path(source).name for source in summary.failed} == {*flags}
    for source, reason in summary.failed.items():
        before, _, after = reason.partition("train with ")
        assert "--" not in before
        assert missing(after, flags[Path(source).name]) == []


def test_a_file_of_the_same_size_that_was_replaced_is_segmented_again(checkpoint: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        noise(tmp_path / "in/a.bmp", seed)
        assert semask.predict(checkpoint, tmp_path / "in", tmp_path / "out").done == 1
    semask.predict(checkpoint, tmp_path / "in", tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_overwrite_leaves_nothing_of_earlier_options(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    semask.predict(checkpoint, images, out, confidence=True, labels="tif", side_by_side=True)
    (out / "predictions/notes.md").write_text("of the user")
    with pytest.raises(ValueError, match=facts("--overwrite")) as refused:
        semask.predict(checkpoint, images, out, shard="1/2")
    done = [semask.predict(checkpoint, images, out, shard=f"{n}/2", overwrite=True).done for n in (1, 2)]
    # the second shard keeps what the first has done, and so does a second call
    assert done == [6, 6]
    assert semask.predict(checkpoint, images, out, shard="1/2", overwrite=True)[:2] == (0, 6)
    assert refused.value
    semask.predict(checkpoint, images, fresh)
    (fresh / "predictions/notes.md").write_text("of the user")
    assert contents(out) == contents(fresh)
    # a shard that is at work is not disturbed
    at_work = Manifest(tmp_path / "busy", {"x": 1}, Shard(1, 2))
    with pytest.raises(ValueError, match=facts("--shard")):
        Manifest(tmp_path / "busy", {"x": 2}, Shard(2, 2), overwrite=True)
    at_work.close()


def test_shards_at_once_have_one_receipt_of_all(tmp_path: Path) -> None:
    one, two = (Manifest(tmp_path, {}, Shard(number, 2)) for number in (1, 2))
    one.add(Line("a", "a.png", 1, height=2, width=2, shares={"sky": 1.0}))
    two.add(Line("b", "b.png", 1, height=2, width=2, shares={"sky": 0.5}))
    one.write_summary(["sky"], ["a", "b"])
    assert set(one.lines) == {"a", "b"}
    assert (tmp_path / "summary.csv").read_text() == "item,height,width,sky [%]\na,2,2,100.0000\nb,2,2,50.0000\n"
    # what a million lines would hold stays on disk
    assert [line.shares for line in one.lines.values()] == [{}, {}]
    assert [line.shares for line in one.read(["b", "a"])] == [{"sky": 0.5}, {"sky": 1.0}]
    one.close()
    two.close()


def test_an_archive_that_vanishes_fails_no_image(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    members = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.*")}
    (tmp_path / "in").mkdir()
    archive = make_tar(tmp_path / "in/set.tar", members)
    items = find_items([archive])[0]
    assert {item.place for item in items} == {archive}
    model = semask.load(checkpoint)
    hook = model.encoder.register_forward_hook(lambda *_: shutil.rmtree(tmp_path / "in", ignore_errors=True))
    with pytest.raises(OSError, match=facts(str(tmp_path / "in"))):
        semask.predict(model, archive, tmp_path / "out", workers=1)
    hook.remove()
    assert not [line for line in lines(tmp_path / "out") if "error" in line]


def test_a_broken_sector_fails_one_image(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Engine.load

    def read(self: Engine, item: Item) -> Loaded:
        if item.name == "02":
            raise OSError(errno.EIO, "Input/output error")
        return load(self, item)

    monkeypatch.setattr(Engine, "load", read)
    summary = semask.predict(checkpoint, images / "a", tmp_path)
    assert (summary.done, [*summary.failed]) == (5, [str(images / "a/02.png")])


@pytest.mark.parametrize("measure", ["confidence", "entropy", "probabilities"])
def test_probabilities_that_are_nan_are_no_labels(checkpoint: Path, images: Path, tmp_path: Path, measure: str) -> None:
    model = semask.load(checkpoint)
    torch.nn.init.constant_(model.decoder.classify.weight, float("nan"))
    with pytest.raises(FloatingPointError):
        semask.predict(model, images / "a", tmp_path, **{measure: True})


def test_packs_replace_each_other(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a.b.png", "a_b.png", "c.png"):
        noise(tmp_path / "in" / name)
    for count, files in ((1, 3), (2, 2)):
        semask.predict(checkpoint, tmp_path / "in", tmp_path / "out", pack=count)
        packed = sorted((tmp_path / "out/shards").iterdir())
        assert len(packed) == files
        keys: list[str] = []
        for path in packed:
            with tarfile.open(path) as archive:
                keys += [name.partition(".")[0] for name in archive.getnames() if name.endswith(".json")]
        assert sorted(keys) == ["a%2Eb", "a_b", "c"]


def test_a_batch_that_is_too_large_is_segmented_one_by_one(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; on a CPU images are alone."""
    begin, segment, sizes = Work.__init__, Engine.segment, list[int]()

    def with_batches(self: Work, engine: Engine, progress: Progress) -> None:
        begin(self, engine, progress)
        self._batch = 2

    def segment_one(self: Engine, batch: Sequence[Loaded]) -> list[Result]:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise MemoryError
        return segment(self, batch)

    monkeypatch.setattr(Work, "__init__", with_batches)
    monkeypatch.setattr(Engine, "segment", segment_one)
    assert semask.predict(checkpoint, images, tmp_path, workers=1)[:3] == (12, 0, {})
    assert (sizes.count(1), max(sizes)) == (12, 2)


def test_a_raster_that_was_begun_keeps_its_windows(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "map.tif", tmp_path / "out"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8), tile=(64, 64))
    plans: list[TilePlan] = []
    plan, append = Engine.plan, RowStore.append

    def keep(self: Engine, *given: Any) -> TilePlan:
        plans.append(plan(self, *given))
        return plans[-1]

    def append_one(self: RowStore, maps: dict[str, np.ndarray], **notes: Any) -> None:
        append(self, maps, **notes)
        if self.done > 256:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "plan", keep)
    with monkeypatch.context() as killed:
        killed.setattr(RowStore, "append", append_one)
        with pytest.raises(KeyboardInterrupt):
            semask.predict(checkpoint, path, out, memory=64.0)
    assert missing(capsys.readouterr().err, "0 of 1", f"{100 * 256 // 600} %") == []
    # a plan of its own would find no memory
    monkeypatch.setattr(tiles, "_resident", lambda **_: 64 * tiles.GIB)
    assert semask.predict(checkpoint, path, out, memory=64.0).done == 1
    assert len(plans) == 1
    assert not (out / ".unfinished").exists()
    with pytest.raises(ValueError, match=facts("memory", "--overwrite")):
        semask.predict(checkpoint, path, out, memory=4.0)
