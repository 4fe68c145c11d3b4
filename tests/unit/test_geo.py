"""Places on the earth: results lie where their raster lies, areas are those of the ellipsoid, no data gives no labels."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.control
import rasterio.shutil
import tifffile
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine, from_origin

import semask
from semask.data.readers.regions import TiffRaster, open_raster
from semask.inference.areas import RADIUS, class_areas, read_place, zone_area
from semask.models.model import SegmentationModel
from semask.structures import IGNORE
from tests.facts import facts

HEIGHT, WIDTH = 120, 150
PLACES: dict[str, tuple[str, Affine]] = {
    "utm": ("EPSG:32632", from_origin(465_000, 5_250_000, 0.5, 0.5)),
    "swiss, turned": (
        "EPSG:2056",
        Affine.translation(2_600_000, 1_200_000) * Affine.rotation(30) * Affine.scale(2, -2),
    ),
    "degrees": ("EPSG:4326", from_origin(8.5, 47.4, 1e-5, 1.5e-5)),
    "feet": ("EPSG:2263", from_origin(980_000, 200_000, 3, 3)),
    "mercator": ("EPSG:3857", from_origin(950_000, 6_000_000, 2, 2)),
    "no code": ("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m", from_origin(0, 0, 10, 10)),
}


@pytest.fixture(autouse=True)
def plain_files() -> None:
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def pixels(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Coarse coloured noise, 3 H W."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 3, height // 9 + 2, width // 9 + 2)))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return np.asarray((fine[0] * 254).round().numpy().astype(np.uint8))


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    bands, height, width = values.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    profile |= {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(path, "w", **(profile | options)) as file:
        file.write(values)
    return path


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[1:]]


@pytest.mark.parametrize("memory", [None, 64.0])
def test_results_lie_where_their_rasters_lie(model: SegmentationModel, tmp_path: Path, memory: float | None) -> None:
    (tmp_path / "in").mkdir()
    for name, (crs, transform) in PLACES.items():
        path = write(tmp_path / f"in/{name}.tif", pixels(), crs=crs, transform=transform)
        with rasterio.open(path, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point" if name == "utm" else "Area")
    summary = semask.predict(model, tmp_path / "in", tmp_path / "out", memory=memory, confidence=True, overlay=False)
    assert (summary.done, summary.failed) == (len(PLACES), {})
    wanted = model.predict(torch.from_numpy(pixels()))
    for name in PLACES:
        with (
            rasterio.open(tmp_path / "in" / f"{name}.tif") as source,
            rasterio.open(tmp_path / "out/predictions" / f"{name}.tif") as labels,
            rasterio.open(tmp_path / "out/confidence" / f"{name}.tif") as confidence,
        ):
            for found in (labels, confidence):
                assert (found.crs, found.transform) == (source.crs, source.transform)
                assert found.tags()["AREA_OR_POINT"] == source.tags()["AREA_OR_POINT"]
                assert found.nodata is None
            assert model.classes is None
            names = {f"class_{number}": f"class {number}" for number in range(model.num_classes)}
            assert names.items() <= labels.tags().items()
            colours = labels.colormap(1)
            assert len({colours[number] for number in range(model.num_classes)}) == model.num_classes
            # 4 GiB are enough for one window
            assert np.array_equal(labels.read(1), wanted.numpy())


def test_plain_tiffs_have_no_place(model: SegmentationModel, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", pixels())
    assert open_raster(path, channels=3, least=10**6) is None
    raster = TiffRaster(path, 3)
    assert raster.georeference is None
    raster.close()
    semask.predict(model, path, tmp_path / "out")
    assert (tmp_path / "out/predictions/a.png").is_file()
    assert "areas_m2" not in lines(tmp_path / "out")[0].get("more", {})


def test_places_of_rasters_that_rasterio_reads(tmp_path: Path) -> None:
    for crs, transform in PLACES.values():
        plain = write(tmp_path / "plain.tif", pixels(), crs=crs, transform=transform)
        lzw = write(tmp_path / "lzw.tif", pixels(), crs=crs, transform=transform, compress="lzw")
        paths = [plain, lzw, tmp_path / "a.jp2", tmp_path / "a.img"]
        for path, driver in zip(paths[2:], ("JP2OpenJPEG", "HFA"), strict=True):
            rasterio.shutil.copy(plain, path, driver=driver)
        for path in paths:
            raster = open_raster(path, channels=3, least=10**9)
            assert raster is not None
            place = read_place(raster.georeference)
            raster.close()
            assert place is not None
            with rasterio.open(path) as file:
                assert place.crs == file.crs
                assert place.transform.almost_equals(file.transform, 1e-9)
    points = [rasterio.control.GroundControlPoint(*each) for each in ((0, 0, 8, 47), (0, 99, 9, 47), (99, 0, 8, 46))]
    with rasterio.open(tmp_path / "points.tif", "w", driver="GTiff", count=1, width=9, height=9, dtype="uint8") as file:
        file.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
        file.write(np.zeros((1, 9, 9), np.uint8))
    raster = TiffRaster(tmp_path / "points.tif", 1)
    assert raster.georeference is not None
    # points that a grid follows only roughly: tags are kept, but there is no transform
    assert read_place(raster.georeference) is None
    raster.close()


def test_zones_of_the_ellipsoid() -> None:
    assert 4 * math.pi * zone_area(np.array(math.pi / 2)) == pytest.approx(510_065_621_724_088.44, rel=1e-12)
    # the integral of both radii of curvature, with ten thousand steps
    squared = 0.00669437999014
    latitude = np.linspace(0.2, 0.9, 10_001)
    middle = (latitude[1:] + latitude[:-1]) / 2
    radii = RADIUS**2 * (1 - squared) / (1 - squared * np.sin(middle) ** 2) ** 2
    summed = float((radii * np.cos(middle) * np.diff(latitude)).sum())
    assert float(zone_area(latitude[-1]) - zone_area(latitude[0])) == pytest.approx(summed, rel=1e-8)


def test_areas_of_classes_are_those_of_their_pixels(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    labels[:9] = IGNORE
    names = ("a", "b", "c", "none")
    wanted_pixel = {"utm": 0.25, "swiss, turned": 4.0, "feet": 9 * (1200 / 3937) ** 2, "no code": 100.0}
    for name, (crs, transform) in PLACES.items():
        raster = TiffRaster(write(tmp_path / "a.tif", pixels(), crs=crs, transform=transform), 3)
        found = class_areas(labels, raster.georeference, names)
        raster.close()
        assert found["none"] == 0
        if name in wanted_pixel:
            for number, each in enumerate("abc"):
                assert found[each] == pytest.approx((labels == number).sum() * wanted_pixel[name], abs=1e-3)
            continue
        # pixel by pixel, from the corners in degrees
        place = read_place(raster.georeference)
        assert place is not None
        for number, each in enumerate("abc"):
            rows, columns = np.nonzero(labels == number)
            corners = np.stack([columns, rows], axis=1).astype(float)
            west, north = np.radians(place.longitude_latitude(corners)).T
            east, south = np.radians(place.longitude_latitude(corners + 1)).T
            total = ((east - west) * (zone_area(north) - zone_area(south))).sum()
            assert found[each] == pytest.approx(float(total), rel=1e-6, abs=1e-3)


def test_mercator_is_not_measured_in_its_plane(tmp_path: Path) -> None:
    crs, transform = PLACES["mercator"]
    raster = TiffRaster(write(tmp_path / "a.tif", pixels(), crs=crs, transform=transform), 3)
    found = class_areas(np.zeros((HEIGHT, WIDTH), np.uint8), raster.georeference, ("a",))["a"]
    raster.close()
    plane = 4.0 * HEIGHT * WIDTH
    latitude = 2 * math.atan(math.exp(6_000_000 / RADIUS)) - math.pi / 2
    assert found / plane == pytest.approx(math.cos(latitude) ** 2, rel=6e-3)


def test_turned_degrees_and_plans_without_units_have_no_areas(tmp_path: Path) -> None:
    makes = [("EPSG:4326", Affine.translation(8, 47) * Affine.rotation(10) * Affine.scale(1e-5, -1e-5))]
    makes.append(('LOCAL_CS["site",UNIT["metre",1]]', from_origin(0, 0, 1, 1)))
    for crs, transform in makes:
        raster = TiffRaster(write(tmp_path / "a.tif", pixels(), crs=crs, transform=transform), 3)
        assert class_areas(np.zeros((HEIGHT, WIDTH), np.uint8), raster.georeference, ("a",)) == {}
        raster.close()


def test_areas_in_the_manifest(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crs, transform = PLACES["utm"]
    (tmp_path / "in").mkdir()
    for name in "ab":
        write(tmp_path / f"in/{name}.tif", pixels(), crs=crs, transform=transform)
    semask.predict(model, tmp_path / "in", tmp_path / "out")
    for line in lines(tmp_path / "out"):
        assert sum(line["more"]["areas_m2"].values()) == pytest.approx(HEIGHT * WIDTH / 4)
        for name, area in line["more"]["areas_m2"].items():
            assert area / (HEIGHT * WIDTH / 4) == pytest.approx(line["shares"][name], abs=1e-6)
    # without the package: none, and one note
    monkeypatch.setitem(sys.modules, "semask.inference.areas", None)
    capsys.readouterr()
    semask.predict(model, tmp_path / "in", tmp_path / "without")
    assert all("areas_m2" not in line.get("more", {}) for line in lines(tmp_path / "without"))
    assert capsys.readouterr().err.count("semask[geo]") == 1
    monkeypatch.setitem(sys.modules, "semask.inference.polygons", None)
    with pytest.raises(ValueError, match=facts("--polygons", "semask[geo]")):
        semask.predict(model, tmp_path / "in", tmp_path / "polygons", polygons=True)


def test_windows_without_data_are_skipped_and_change_nothing_elsewhere(
    model: SegmentationModel, tmp_path: Path
) -> None:
    values = pixels(260, 340)
    crs, transform = PLACES["utm"]
    empty = np.zeros((260, 340), bool)
    empty[40:250, 90:300] = True
    empty[5:9, 5:9] = True
    values = np.where(empty, 0, np.maximum(values, 1)).astype(np.uint8)
    counts = {}
    for name, nodata in (("all", None), ("gaps", 0)):
        path = write(tmp_path / f"{name}.tif", values, crs=crs, transform=transform, nodata=nodata)
        passes: list[int] = []
        hook = model.encoder.register_forward_hook(lambda _, given, __, passes=passes: passes.append(len(given[0])))
        semask.predict(
            model,
            path,
            tmp_path / f"out {name}",
            window=(64, 64),
            stride=(48, 48),
            memory=64.0,
            confidence=True,
            batch_size=1,
        )
        hook.remove()
        counts[name] = sum(passes)
    maps = {}
    for name in counts:
        for kind in ("predictions", "confidence"):
            with rasterio.open(tmp_path / f"out {name}" / kind / f"{name}.tif") as file:
                maps[name, kind] = file.read(1)
                assert file.nodata == (IGNORE if (name, kind) == ("gaps", "predictions") else None)
    assert (maps["gaps", "predictions"][empty] == IGNORE).all()
    assert len(np.unique(maps["all", "predictions"])) > 2
    for kind in ("predictions", "confidence"):
        np.testing.assert_array_equal(maps["gaps", kind][~empty], maps["all", kind][~empty])
    # windows that lie in the gap, from where `sliding` begins them
    starts = [{*range(0, side - 64, 48), side - 64} for side in (260, 340)]
    inside = sum(empty[row : row + 64, column : column + 64].all() for row in starts[0] for column in starts[1])
    assert inside > 5
    assert counts["all"] - counts["gaps"] == inside


@pytest.mark.parametrize("memory", [None, 64.0])
def test_nan_marks_no_data_in_floats(tmp_path: Path, memory: float | None) -> None:
    recipe = semask.get_recipe("folder/semask-micro-fpn").override(
        {"data.value_range": (-50.0, 1000.0), "model.num_classes": 5, "data.crop": (64, 64)}
    )
    torch.manual_seed(0)
    model = semask.build(recipe)
    values = pixels().astype(np.float32) * 4 - 30
    empty = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    crs, transform = PLACES["degrees"]
    path = write(tmp_path / "a.tif", np.where(empty, np.nan, values), crs=crs, transform=transform, nodata=np.nan)
    black = write(tmp_path / "b.tif", np.where(empty, -50, values).astype(np.float32), crs=crs, transform=transform)
    for each in (path, black):
        summary = semask.predict(model, each, tmp_path / each.stem, memory=memory)
        assert summary.done == 1
    found, wanted = (tifffile.imread(tmp_path / name / f"predictions/{name}.tif") for name in "ab")
    assert (found[empty] == IGNORE).all()
    np.testing.assert_array_equal(found[~empty], wanted[~empty])
