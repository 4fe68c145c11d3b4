"""Rasters by region: labels of the whole image, within the memory, whatever interrupts the run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import semask
from semask.cli import main as cli
from semask.data.readers.regions import Region, TiffRaster
from semask.inference import build_predictor, tiles
from semask.inference.regions import RegionImage
from semask.inference.tiles import TilePlan, plan_tiles
from semask.recipes import TestRecipe, get_recipe
from semask.recipes.prediction import PredictOptions
from tests.facts import facts

HEIGHT, WIDTH = 420, 540


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = torch.rand(1, 3, 50, 60, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


@pytest.fixture(scope="module")
def raster(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raster") / "map.tif"
    tifffile.imwrite(path, pixels, tile=(128, 256), compression="zlib", photometric="rgb")
    return path


TESTS = {
    "mean": TestRecipe(mode="sliding", window=(128, 160), stride=(100, 130)),
    "hann": TestRecipe(mode="sliding", window=(96, 96), stride=(48, 64), blend="hann"),
    "scales and flips": TestRecipe(mode="sliding", window=(128, 128), stride=(96, 96), scales=(0.75, 1.5), flip=True),
    "no overlap": TestRecipe(mode="sliding", window=(64, 128), stride=(64, 128)),
}


@pytest.mark.parametrize("name", TESTS)
def test_labels_by_region_are_those_of_the_whole_image(
    checkpoint: Path, pixels: np.ndarray, raster: Path, tmp_path: Path, name: str
) -> None:
    model, test = semask.load(checkpoint), TESTS[name]
    semask.predict(model, raster, tmp_path, test=test, memory=64, overlay=False, confidence=True, seams=True)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    assert model.recipe is not None
    with torch.inference_mode():
        labels, confidence = build_predictor(model, test, model.recipe.data).labelled(image)
    found = tifffile.imread(tmp_path / "predictions/map.tif")
    differ = found != labels[0].numpy()
    # resized parts round as whole images do but for the last bit, which decides ties
    assert differ.sum() <= (20 if "scales" in name else 0)
    sure = np.abs(tifffile.imread(tmp_path / "confidence/map.tif") - (confidence[0] * 255).round().numpy()) <= 1
    assert sure.mean() > 0.9999
    line = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[1])
    assert ("class_jumps" in line["more"]) == (name == "no overlap")
    assert ("windows_differ" in line["more"]) == (name != "no overlap")
    assert not (tmp_path / ".unfinished").exists()


def planned(checkpoint: Path, path: Path, memory: float | None, **options: object) -> TilePlan:
    model = semask.load(checkpoint)
    assert model.recipe is not None
    with TiffRaster(path, channels=3) as raster:
        image = RegionImage(raster, model.recipe.data)
        given = PredictOptions(out=Path("out"), memory=memory, **options)
        return plan_tiles(model, image, model.recipe.data, model.recipe.test, given)


def test_the_memory_decides_the_windows(checkpoint: Path, raster: Path) -> None:
    largest, crop = planned(checkpoint, raster, None), 128
    assert largest.test.window == (2 * crop, 2 * crop)
    assert largest.test.stride == (3 * crop // 2, 3 * crop // 2)
    assert largest.windows == 2 * 3
    # whatever a trial measures, a plan keeps to the memory or is refused
    plans = []
    for budget in np.linspace(0.6, 1.2, 7) * largest.memory / 2**30:
        with suppress(ValueError):
            plans.append((budget, planned(checkpoint, raster, float(budget))))
    assert plans
    assert all(plan.memory <= budget * 2**30 for budget, plan in plans)
    assert {max(plan.test.window) for _, plan in plans} <= {2 * crop, crop}
    with pytest.raises(ValueError, match=facts("--memory", raster, WIDTH)):
        planned(checkpoint, raster, 1e-3)
    assert TilePlan.from_json(json.loads(json.dumps(largest.to_json()))) == largest


def test_a_plan_is_shown_and_nothing_written(
    checkpoint: Path, raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(checkpoint), str(raster), "--out", str(tmp_path / "out"), "--plan", "--memory", "64"]
    assert cli.main(command) == 0
    assert "256×256" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_overlay_reads_few_regions(pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store decodes the chunks under a region anew for every region."""
    tifffile.imwrite(tmp_path / "map.tif", pixels, photometric="rgb")
    read, heights = TiffRaster.read, list[int]()

    def note(self: TiffRaster, top: int, left: int, bottom: int, right: int) -> Region:
        heights.append(bottom - top)
        return read(self, top, left, bottom, right)

    monkeypatch.setattr(TiffRaster, "read", note)
    for most, count in ((tiles.ENCODING, 1), (16 * 3 * WIDTH * 150, 3)):
        monkeypatch.setattr(tiles, "ENCODING", most)
        with TiffRaster(tmp_path / "map.tif", channels=3) as raster:
            shown = tiles._thumbnail(RegionImage(raster, get_recipe("scenes/semask-micro-fpn").data), 3)
        assert np.array_equal(shown.permute(1, 2, 0).numpy(), pixels[::3, ::3])
        assert len(heights) == count
        heights.clear()


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_killed_raster_goes_on_to_the_same_bytes(
    checkpoint: Path, pixels: np.ndarray, tmp_path: Path, kills: int
) -> None:
    path = tmp_path / "map.tif"
    tall = np.concatenate([pixels] * (2 if kills < 10 else 12))
    tifffile.imwrite(path, tall, tile=(128, 256), compression="zlib", photometric="rgb")
    command = ["predict", str(checkpoint), str(path), "--memory", "64", "--seams", "--confidence", "--polygons"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    # shares of the time from the first strip to the end
    met, rng = 0, np.random.default_rng(kills)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "semask.cli.main", *command, "--out", str(out)], stderr=subprocess.DEVNULL
        )
        before, waited = strips(out), time.monotonic()
        while process.poll() is None and strips(out) <= before and time.monotonic() < waited + 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        met += process.wait() == -signal.SIGKILL
        for shown in out.rglob("predictions/*.tif"):
            tifffile.imread(shown)
    assert met >= kills // 2
    assert cli.main([*command, "--out", str(out)]) == 0
    assert contents(out) == contents(tmp_path / "whole")


def strips(out: Path) -> int:
    """Rows that are done."""
    try:
        [state] = out.glob(".unfinished/*/state.json")
        return int(json.loads(state.read_text())["done"])
    except (OSError, ValueError):
        return 0


def contents(out: Path) -> dict[str, bytes]:
    files = [
        path for path in out.rglob("*") if path.is_file() and path.parent != out and not path.name.endswith(".tmp")
    ]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_what_is_left_of_another_run_is_not_used(checkpoint: Path, raster: Path, tmp_path: Path) -> None:
    """Half a raster of one model, then another model into the same folder."""
    other = semask.build(get_recipe("scenes/semask-micro-fpn")).eval()
    semask.predict(other, raster, tmp_path / "truth", memory=64, overlay=False)
    out = tmp_path / "out"
    command = ["predict", str(checkpoint), str(raster), "--out", str(out), "--memory", "64", "--overlay", "false"]
    process = subprocess.Popen([sys.executable, "-m", "semask.cli.main", *command], stderr=subprocess.DEVNULL)
    waited = time.monotonic()
    while process.poll() is None and not strips(out) and time.monotonic() < waited + 60:
        time.sleep(0.005)
    process.kill()
    process.wait()
    semask.predict(other, raster, out, memory=64, overlay=False, overwrite=True)
    assert contents(out)["predictions/map.tif"] == contents(tmp_path / "truth")["predictions/map.tif"]
    shutil.rmtree(out)


def test_the_disagreement_of_windows_is_the_same_whatever_is_written(
    checkpoint: Path, pixels: np.ndarray, raster: Path, tmp_path: Path
) -> None:
    """Also where classes follow without scores, whose pixels alone agree more often than others."""
    model, (tall, wide), (down, across) = semask.load(checkpoint), (128, 160), (100, 130)
    found = []
    for name, options in (("labels", {}), ("confidence", {"confidence": True})):
        test = TestRecipe(mode="sliding", window=(tall, wide), stride=(down, across))
        semask.predict(model, raster, tmp_path / name, test=test, memory=64, overlay=False, **options)
        line = json.loads((tmp_path / name / "manifest.jsonl").read_text().splitlines()[1])
        found.append(line["more"]["windows_differ"])
    assert abs(found[0] - found[1]) < 1e-4
    # by every window alone
    best = np.full((HEIGHT, WIDTH), -1)
    shared, differing = np.zeros((2, HEIGHT, WIDTH), bool)
    for top in [*range(0, HEIGHT - tall, down), HEIGHT - tall]:
        for left in [*range(0, WIDTH - wide, across), WIDTH - wide]:
            place = np.s_[top : top + tall, left : left + wide]
            crop = torch.from_numpy(pixels[place].copy()).permute(2, 0, 1)
            own = model.labels(crop[None] / 255)[0].numpy().astype(int)
            shared[place] |= best[place] >= 0
            differing[place] |= (best[place] >= 0) & (best[place] != own)
            best[place] = np.where(best[place] >= 0, best[place], own)
    assert abs(found[0] - differing.sum() / shared.sum()) < 1e-4
