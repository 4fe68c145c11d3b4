"""Outlines of regions as GeoJSON: rasterised, they are the label map again."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds
from scipy import ndimage

import semask
from semask.data.classes import Classes
from semask.data.readers.regions import Georeference, TiffRaster
from semask.inference.areas import class_areas
from semask.inference.polygons import write_polygons
from semask.inference.rows import RowFile
from semask.inference.sinks import Result
from semask.structures import IGNORE
from tests.unit.test_geo import PLACES, write

CLASSES = Classes.from_dict({"classes": ["background", "röad", "field", "wood", "lake"]})
SHOWN = (1, 2, 3, 4)


def label_map(seed: int, height: int = 70, width: int = 90) -> np.ndarray:
    """Noise in cells of 1 to 9 px, with gaps."""
    random = np.random.default_rng(seed)
    cell = 1 + 2 * (seed % 5)
    coarse = random.integers(0, 5, (height // cell + 1, width // cell + 1))
    labels = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width].astype(np.uint8)
    labels[random.random(labels.shape) < 0.05] = random.integers(0, 5)
    labels[: seed % 4, :33] = IGNORE
    return labels


def result(labels: Any, georeference: Georeference | None = None) -> Result:
    return Result(labels, torch.zeros(3, 1, 1, dtype=torch.uint8), georeference=georeference)


def georeference(folder: Path, crs: str, transform: Affine) -> Georeference:
    raster = TiffRaster(write(folder / "place.tif", np.zeros((1, 64, 64), np.uint8), crs=crs, transform=transform), 1)
    raster.close()
    assert raster.georeference is not None
    return raster.georeference


def features(path: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Outlines, all of them valid and turned as RFC 7946 wants, and their properties."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    assert all(each["type"] == "Feature" and each["geometry"]["type"] == "Polygon" for each in content["features"])
    outlines = np.array([shapely.from_geojson(json.dumps(each["geometry"])) for each in content["features"]], object)
    assert shapely.is_valid(outlines).all()
    assert all(each.exterior.is_ccw and not any(hole.is_ccw for hole in each.interiors) for each in outlines)
    return outlines, [each["properties"] for each in content["features"]]


def rasterized(outlines: np.ndarray, properties: list[dict[str, Any]], labels: np.ndarray, **place: Any) -> np.ndarray:
    pairs = [(outline, own["id"]) for outline, own in zip(outlines, properties, strict=True)]
    return np.asarray(rasterize(pairs, out_shape=labels.shape, fill=0, dtype="uint8", **place))


def test_outlines_in_pixels_are_the_label_map(tmp_path: Path) -> None:
    for seed in range(20):
        labels = label_map(seed)
        shown = SHOWN if seed % 2 else (2, 4)
        path = tmp_path / f"{seed}.geojson"
        write_polygons(path, result(labels), CLASSES, shown, 0)
        outlines, properties = features(path)
        np.testing.assert_array_equal(
            rasterized(outlines, properties, labels), np.where(np.isin(labels, shown), labels, 0)
        )
        for number in shown:
            own = [each for each in properties if each["id"] == number]
            assert {each["class"] for each in own} <= {CLASSES.names[number]}
            assert all(
                each["classification"] == {"name": CLASSES.names[number], "color": [*CLASSES.colours[number]]}
                for each in own
            )
            # regions and their sizes, by another library
            regions, count = ndimage.label(labels == number)
            assert sorted(each["area_px"] for each in own) == sorted(np.bincount(regions.ravel())[1:].tolist())
            assert len(own) == count
        assert all("area_m2" not in each for each in properties)


@pytest.mark.parametrize("name", PLACES)
def test_outlines_on_the_earth_are_the_label_map(tmp_path: Path, name: str) -> None:
    crs, transform = PLACES[name]
    place = georeference(tmp_path, crs, transform)
    for seed in (4, 5):
        labels = label_map(seed)
        path = tmp_path / "a.geojson"
        write_polygons(path, result(labels, place), CLASSES, SHOWN, 0)
        outlines, properties = features(path)
        west, south, east, north = shapely.total_bounds(outlines)
        corners = [transform * corner for corner in ((0, 0), (90, 0), (0, 70), (90, 70))]
        x, y = zip(*corners, strict=True)
        box = transform_bounds(crs, "EPSG:4326", min(x), min(y), max(x), max(y))
        assert box[0] - 1e-6 <= west < east <= box[2] + 1e-6
        assert box[1] - 1e-6 <= south < north <= box[3] + 1e-6
        # back in the map's own coordinates
        longitude, latitude = shapely.get_coordinates(outlines).T
        own = np.stack(transform_points("EPSG:4326", crs, longitude, latitude), axis=1)
        back = shapely.set_coordinates(outlines.copy(), own)
        wanted = np.where(labels == IGNORE, 0, labels)
        np.testing.assert_array_equal(rasterized(back, properties, labels, transform=transform), wanted)
        areas = class_areas(labels, place, tuple(CLASSES.names))
        for number in SHOWN:
            own_areas = [each["area_m2"] for each in properties if each["id"] == number]
            assert sum(own_areas) == pytest.approx(areas[CLASSES.names[number]], abs=0.001 * len(own_areas))
            assert areas[CLASSES.names[number]] > 0


def test_long_edges_follow_the_map(tmp_path: Path) -> None:
    # 900 px of 1 km: a line of a map is bent between longitudes and latitudes
    place = georeference(tmp_path, "EPSG:3035", from_origin(3_000_000, 4_000_000, 1000, 1000))
    write_polygons(tmp_path / "a.geojson", result(np.ones((900, 900), np.uint8), place), CLASSES, SHOWN, 0)
    (outline,), _ = features(tmp_path / "a.geojson")
    middle = outline.segmentize(0.01)
    longitude, latitude = shapely.get_coordinates(middle).T
    x, y = map(np.array, transform_points("EPSG:4326", "EPSG:3035", longitude, latitude))
    distance = np.minimum.reduce([abs(x - 3_000_000), abs(x - 3_900_000), abs(y - 4_000_000), abs(y - 3_100_000)])
    assert distance.max() < 1000


def test_outlines_cross_the_180th_meridian_without_going_round(tmp_path: Path) -> None:
    place = georeference(tmp_path, "EPSG:32660", from_origin(800_000, 1_000_000, 100, 100))
    labels = np.full((20, 400), 1, np.uint8)
    write_polygons(tmp_path / "a.geojson", result(labels, place), CLASSES, SHOWN, 0)
    (outline,), _ = features(tmp_path / "a.geojson")
    west, _, east, _ = outline.bounds
    assert west < 180 < east < west + 1


def test_a_map_on_disk_gives_the_same_file_without_being_read_whole(tmp_path: Path) -> None:
    labels = np.kron(label_map(4, 40, 50), np.ones((100, 100), np.uint8)).astype(np.uint8)
    labels.tofile(tmp_path / "labels.raw")
    on_disk = RowFile(tmp_path / "labels.raw", *labels.shape, np.dtype(np.uint8))
    write_polygons(tmp_path / "a.geojson", result(labels), CLASSES, SHOWN, 0)
    tracemalloc.start()
    write_polygons(tmp_path / "b.geojson", result(on_disk), CLASSES, SHOWN, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    assert peak < labels.nbytes / 4


def test_simplified_neighbours_keep_their_border(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((5, 120, 120))
    labels = np.stack([ndimage.gaussian_filter(each, 6) for each in noise]).argmax(0).astype(np.uint8)
    labels[50:60, 50:60] = IGNORE
    everything = range(5)
    corners = {}
    for tolerance in (0, 3):
        path = tmp_path / f"{tolerance}.geojson"
        write_polygons(path, result(labels), CLASSES, everything, tolerance)
        outlines, properties = features(path)
        corners[tolerance] = shapely.get_num_coordinates(outlines).sum()
        # neither gaps nor overlaps
        assert shapely.area(outlines).sum() == pytest.approx(shapely.union_all(outlines).area)
        assert shapely.coverage_is_valid(shapely.segmentize(outlines, 1.0) if not tolerance else outlines)
    assert corners[3] < corners[0] / 2
    # areas are those of the label map
    for number in everything:
        assert sum(each["area_px"] for each in properties if each["id"] == number) == (labels == number).sum()
    outline_map = rasterized(outlines, properties, labels)
    assert 0.8 < (outline_map == np.where(labels == IGNORE, 0, labels)).mean() < 1


def test_maps_without_regions_have_no_features(tmp_path: Path) -> None:
    for tolerance in (0, 2):
        for labels in (np.zeros((5, 7), np.uint8), np.full((5, 7), IGNORE, np.uint8)):
            write_polygons(tmp_path / "a.geojson", result(labels), CLASSES, SHOWN, tolerance)
            assert len(features(tmp_path / "a.geojson")[0]) == 0


def test_predict_writes_them_for_images_and_rasters(tmp_path: Path) -> None:
    from PIL import Image

    torch.manual_seed(1)
    model = semask.build("scenes/semask-micro-fpn")
    torch.nn.init.normal_(model.decoder.classify.weight, std=3.0)  # type: ignore[operator, union-attr, arg-type]
    values = (
        np.random.default_rng(0).integers(0, 255, (3, 13, 15), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    )
    crs, transform = PLACES["utm"]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/map.tif", values, crs=crs, transform=transform)
    Image.fromarray(np.moveaxis(values, 0, -1)).save(tmp_path / "in/photo.png")
    wanted = model.predict(torch.from_numpy(values)).numpy()
    for memory in (None, 64.0):
        out = tmp_path / f"out {memory}"
        summary = semask.predict(model, tmp_path / "in", out, polygons=True, memory=memory)
        assert summary.failed == {}
        outlines, properties = features(out / "polygons/photo.geojson")
        np.testing.assert_array_equal(rasterized(outlines, properties, wanted), wanted)
        _, on_earth = features(out / "polygons/map.geojson")
        assert [each["area_px"] for each in on_earth] == [each["area_px"] for each in properties]
        assert sum(each["area_m2"] for each in on_earth) == pytest.approx(wanted.size / 4)
