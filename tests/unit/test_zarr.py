"""Label maps and probabilities as OME-Zarr, and zarr stores as images."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

import semask
from semask.data.classes import Classes
from semask.files import STALE, check_writable
from semask.inference.rows import RowFile, RowStore
from semask.inference.sinks import Result, Sinks
from semask.inference.zarr_maps import write_zarr
from semask.models.model import SegmentationModel
from semask.structures import IGNORE
from tests.facts import facts

CLASSES = Classes.from_dict({"classes": ["sky", "röad", "wood"]})
# one by one: rounding, which decides ties, differs between batches
SHAPES: dict[str, Any] = {"window": (64, 64), "stride": (48, 48), "batch_size": 1}
WINDOWS: dict[str, Any] = {**SHAPES, "memory": 64.0, "overlay": False}


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (3, 60, 20), dtype=np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)


def write(path: Path, values: np.ndarray) -> Path:
    tifffile.imwrite(path, np.moveaxis(values, 0, -1), photometric="rgb", tile=(64, 64), compression="zlib")
    return path


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def result(labels: Any) -> Result:
    return Result(labels, torch.zeros(3, 1, 1, dtype=torch.uint8))


def test_a_label_image_of_ome_zarr(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (700, 1100)).astype(np.uint8)
    labels[:90, :80] = IGNORE
    labels.tofile(tmp_path / "raw")
    path = tmp_path / "out/a.zarr"
    write_zarr(path, labels, CLASSES, result(labels))
    array = zarr.open_array(path / "0", mode="r")
    np.testing.assert_array_equal(np.asarray(array[:]), labels)
    assert (array.dtype, array.chunks, array.metadata.dimension_names) == ("uint8", (512, 512), ("y", "x"))
    header = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    ome = header["attributes"]["ome"]
    assert (header["zarr_format"], ome["version"]) == (3, "0.5")
    (scales,) = ome["multiscales"]
    assert [(axis["name"], axis["type"]) for axis in scales["axes"]] == [("y", "space"), ("x", "space")]
    assert scales["datasets"] == [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}]
    colours = {each["label-value"]: each["rgba"] for each in ome["image-label"]["colors"]}
    assert colours == {n: [*colour, 255] for n, colour in enumerate(CLASSES.colours)} | {IGNORE: [0, 0, 0, 0]}
    names = {each["label-value"]: each["class"] for each in ome["image-label"]["properties"]}
    assert names == dict(enumerate(CLASSES.names))
    # again, from a map on disk: the same bytes in place of the earlier ones, and nothing else
    first = contents(path)
    (path / "left over").touch()
    write_zarr(path, RowFile(tmp_path / "raw", 700, 1100, np.dtype(np.uint8)), CLASSES, result(labels))
    assert contents(path) == first
    assert [each.name for each in path.parent.iterdir()] == ["a.zarr"]
    # measures are images
    write_zarr(tmp_path / "b.zarr", labels, None, result(labels))
    assert "image-label" not in zarr.open_group(tmp_path / "b.zarr", mode="r").attrs["ome"]  # type: ignore[operator]


def test_a_store_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class Broken(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            if rows.start:
                raise OSError(28, "no space left")
            return super().__getitem__(rows).view(np.ndarray)

    labels = np.ones((1200, 30), np.uint8)
    for _ in range(2):
        with pytest.raises(OSError, match="space"):
            write_zarr(tmp_path / "out/a.zarr", labels.view(Broken), CLASSES, result(labels))
        before = contents(tmp_path / "out")
        assert set(before) <= {"a.zarr/zarr.json", "a.zarr/0/zarr.json", *(f"a.zarr/0/c/{n}/0" for n in range(3))}
        # the second time there is an earlier one, which stays
        write_zarr(tmp_path / "out/a.zarr", labels, CLASSES, result(labels))
        assert not before or contents(tmp_path / "out") == before


def test_stale_temporary_folders_are_removed(tmp_path: Path) -> None:
    for name, age in ((".1-0123456789ab.tmp", STALE + 9), (".2-0123456789ab.tmp", 0)):
        (tmp_path / "predictions" / name / "0").mkdir(parents=True)
        (tmp_path / "predictions" / name / "0/zarr.json").touch()
        os.utime(tmp_path / "predictions" / name, (time.time() - age,) * 2)
    check_writable(tmp_path)
    assert [each.name for each in (tmp_path / "predictions").iterdir()] == [".2-0123456789ab.tmp"]


def test_predict_writes_zarr(model: SegmentationModel, values: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in/sub").mkdir(parents=True)
    write(tmp_path / "in/map.tif", values)
    Image.fromarray(np.moveaxis(values, 0, -1)).save(tmp_path / "in/sub/photo.png")
    wanted = (
        semask.sliding(model, window=(64, 64), stride=(48, 48)).labels(torch.from_numpy(values)[None] / 255)[0].numpy()
    )
    for memory in (None, 64.0):
        out = tmp_path / f"out {memory}"
        arguments = {**WINDOWS, "memory": memory, "labels": "zarr", "confidence": True}
        assert semask.predict(model, tmp_path / "in", out, **arguments).done == 2
        for name in ("map", "sub/photo"):
            found = zarr.open_array(out / f"predictions/{name}.zarr/0", mode="r")
            np.testing.assert_array_equal(np.asarray(found[:]), wanted)
            assert zarr.open_array(out / f"confidence/{name}.zarr/0", mode="r").shape == wanted.shape
        again = semask.predict(model, tmp_path / "in", out, **arguments)
        assert (again.done, again.earlier) == (0, 2)
    receipts = [json.loads((tmp_path / f"out {memory}/receipt.json").read_text()) for memory in (None, 64.0)]
    assert receipts[0]["labels"] == receipts[1]["labels"]


def test_probabilities_of_a_raster_by_region(model: SegmentationModel, values: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "map.tif", values)
    semask.predict(model, path, tmp_path / "out", probabilities=True, **WINDOWS)
    found = zarr.open_array(tmp_path / "out/probabilities/map.zarr/0", mode="r")
    with torch.inference_mode():
        scores = semask.sliding(model, window=(64, 64), stride=(48, 48))(torch.from_numpy(values)[None] / 255)
    wanted = scores.softmax(1)[0].half().numpy()
    assert (found.dtype, found.shape, found.chunks[0]) == ("float16", wanted.shape, model.num_classes)
    np.testing.assert_allclose(np.asarray(found[:], np.float32), wanted.astype(np.float32), atol=1e-3)
    ome: Any = zarr.open_group(tmp_path / "out/probabilities/map.zarr", mode="r").attrs["ome"]
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "y", "x"]
    assert [each["label"] for each in ome["omero"]["channels"]] == [f"class {n}" for n in range(model.num_classes)]
    # images in memory have .npz
    semask.predict(model, path, tmp_path / "whole", probabilities=True, **{**WINDOWS, "memory": None})
    stored = np.load(tmp_path / "whole/probabilities/map.npz")["probabilities"]
    np.testing.assert_allclose(stored.astype(np.float32), wanted.astype(np.float32), atol=1e-3)


@pytest.mark.parametrize("when", ["strips", "files"])
def test_a_killed_run_goes_on(
    model: SegmentationModel, values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = write(tmp_path / "map.tif", values)
    arguments = {**WINDOWS, "labels": "zarr", "probabilities": True}
    semask.predict(model, path, tmp_path / "at once", **arguments)
    killed, append, save = tmp_path / "killed", RowStore.append, Sinks.write

    def append_one(self: RowStore, maps: Any, **notes: Any) -> None:
        # the chunks of the second strip are written, the strip does not count
        if self.done:
            raise KeyboardInterrupt
        append(self, maps, **notes)

    def write_and_stop(self: Sinks, name: str, result: Result) -> Path:
        save(self, name, result)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "strips":
            patch.setattr(RowStore, "append", append_one)
        else:
            patch.setattr(Sinks, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            semask.predict(model, path, killed, **arguments)
    assert (killed / "probabilities").exists() == (when == "files")
    rows: list[int] = []
    monkeypatch.setattr(
        RowStore, "append", lambda self, maps, **notes: (rows.append(self.done), append(self, maps, **notes))[1]
    )
    assert semask.predict(model, path, killed, **arguments).done == 1
    assert rows == ([256, 512] if when == "strips" else [])
    for folder in ("predictions", "probabilities"):
        assert contents(killed / folder) == contents(tmp_path / "at once" / folder)
        assert contents(killed / folder)
    assert not list((killed / ".unfinished").glob("*"))


def test_missing_packages_are_named_before_the_work(
    model: SegmentationModel, values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "map.tif", values)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=facts("--labels zarr", "semask[zarr]")):
        semask.predict(model, path, tmp_path / "out", labels="zarr", **WINDOWS)
    with pytest.raises(ValueError, match="1"):
        semask.predict(model, path, tmp_path / "out", probabilities=True, **WINDOWS)
    (line,) = (tmp_path / "out/manifest.jsonl").read_text().splitlines()[1:]
    assert "semask[zarr]" in json.loads(line)["error"]
    # images in memory need no zarr
    assert semask.predict(model, path, tmp_path / "npz", probabilities=True).done == 1


def test_zarr_stores_are_images(model: SegmentationModel, values: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    zarr.create_array(folder / "deep/plain.zarr", data=values, chunks=(3, 100, 100))
    group = zarr.create_group(folder / "ome.zarr")
    axes = [{"name": name} for name in "tczyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    group.create_array("0", data=values[None, :, None], chunks=(1, 1, 1, 128, 128))
    zarr.create_array(folder / "odd.zarr", data=values[:2])
    summary = semask.predict(model, folder, tmp_path / "out", memory=64.0, **SHAPES)
    assert (summary.done, summary.skipped) == (2, {})
    assert [*summary.failed] == [str(folder / "odd.zarr")]
    wanted = (
        semask.sliding(model, window=(64, 64), stride=(48, 48)).labels(torch.from_numpy(values)[None] / 255)[0].numpy()
    )
    for name in ("deep/plain", "ome"):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"out/predictions/{name}.tif"), wanted)
    # a store alone, in memory
    assert semask.predict(model, folder / "ome.zarr", tmp_path / "one").done == 1


def test_a_group_in_place_of_an_array_fails_one_store(
    model: SegmentationModel, values: np.ndarray, tmp_path: Path
) -> None:
    store = tmp_path / "in/a.zarr"
    zarr.create_group(store, attributes={"multiscales": [{"datasets": [{"path": "inner"}]}]}).create_group("inner")
    write(tmp_path / "in/b.tif", values)
    summary = semask.predict(model, tmp_path / "in", tmp_path / "out", overlay=False)
    assert (summary.done, [*summary.failed]) == (1, [str(store)])


def test_temporary_files_of_killed_runs_are_removed_at_any_depth(
    model: SegmentationModel, values: np.ndarray, tmp_path: Path
) -> None:
    part = tmp_path / f"out/predictions/a/b/.1234-{'0' * 12}.tmp"
    recent = part.with_name(f".1234-{'1' * 12}.tmp")
    part.parent.mkdir(parents=True)
    for path in (part, recent):
        path.touch()
    os.utime(part, (time.time() - STALE - 60,) * 2)
    semask.predict(model, write(tmp_path / "map.tif", values), tmp_path / "out", overlay=False)
    assert [*part.parent.iterdir()] == [recent]
