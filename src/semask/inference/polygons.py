"""Outlines of the regions of a label map as GeoJSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.features import shapes
from shapely.geometry import Polygon, mapping, shape

from semask.data.classes import Classes
from semask.files import atomic_write
from semask.inference.areas import Place, read_place
from semask.inference.rows import RowFile

if TYPE_CHECKING:
    from semask.inference.sinks import Result

BATCH = 1024
"""Polygons whose corners are projected at once."""
STEP = 100.0
"""Longest edge [px] in map coordinates: a straight line on a map is none between longitudes and latitudes."""
DIGITS = 9
"""Decimals of longitudes and latitudes; the last one is a tenth of a millimetre."""

Region = tuple[int, Polygon, int, float | None]
"""Class, outline, area [px] and area [m²]."""


def write_polygons(path: Path, result: Result, classes: Classes, shown: Collection[int], simplify: float) -> None:
    """Write a feature for every region, 4-connected pixels of one of the classes `shown`.

    Corners are longitudes and latitudes of WGS 84 where the raster has a place on the earth, as RFC 7946 wants, and
    otherwise columns and rows of pixels from the upper left corner, with the class as QuPath reads it. `simplify` is
    the tolerance [px] to which outlines are simplified; neighbours keep the border that they share.
    """
    place = read_place(result.georeference)
    # GDAL follows the rows of a map on disk without reading it whole
    labels = result.labels
    values = np.memmap(labels.path, labels.dtype, "r", shape=labels.shape) if isinstance(labels, RowFile) else labels
    areas = None if place is None else place.pixel_areas(len(values))
    below = None if areas is None else np.concatenate([[0.0], np.cumsum(areas)])
    regions = _regions(np.asarray(values), shown, below)
    if simplify:
        regions = _simplified([*regions], simplify)
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, (region, outline) in enumerate(_placed(regions, place)):
            text = json.dumps(_feature(region, outline, classes, place), ensure_ascii=False)
            file.write((",\n" if number else "\n") + text)
        file.write("\n]}\n")


def _regions(values: np.ndarray, shown: Collection[int], below: np.ndarray | None) -> Iterator[Region]:
    """Regions with their areas; `below` is the area [m²] of a column of pixels above every row."""
    for geometry, value in shapes(values):
        if int(value) in shown:
            polygon = shape(geometry)
            square = None if below is None else sum(_enclosed(ring, below) for ring in geometry["coordinates"])
            yield int(value), polygon, round(polygon.area), None if square is None else abs(square)


def _enclosed(ring: Any, below: np.ndarray) -> float:
    """Area in a ring along pixels, by Green's theorem; holes turn the other way and count below zero."""
    x, y = np.array(ring).astype(np.int64).T
    return float(np.diff(x) @ below[y[:-1]])


def _simplified(regions: list[Region], tolerance: float) -> Iterator[Region]:
    # a vertex at every pixel, so that neighbours have the same ones
    outlines = shapely.segmentize(np.array([outline for _, outline, *_ in regions], object), 1.0)
    simpler = shapely.coverage_simplify(outlines, tolerance)
    return ((number, outline, *areas) for (number, _, *areas), outline in zip(regions, simpler, strict=True))


def _placed(regions: Iterable[Region], place: Place | None) -> Iterator[tuple[Region, Polygon]]:
    """Regions with their outlines in the coordinates of the file, outer rings against the clock."""
    rest = iter(regions)
    while batch := [*itertools.islice(rest, BATCH)]:
        outlines = np.array([outline for _, outline, *_ in batch], object)
        if place is not None:
            outlines = shapely.segmentize(outlines, STEP)
            corners = place.longitude_latitude(shapely.get_coordinates(outlines)).round(DIGITS)
            shapely.set_coordinates(outlines, corners)
            # across the 180th meridian longitudes go on
            left, _, right, _ = shapely.bounds(outlines).T
            east = np.repeat(right - left > 180, shapely.get_num_coordinates(outlines)) & (corners[:, 0] < 0)
            shapely.set_coordinates(outlines, corners + np.stack([360 * east, 0 * east], axis=1))
        yield from zip(batch, shapely.orient_polygons(outlines), strict=True)


def _feature(region: Region, outline: Polygon, classes: Classes, place: Place | None) -> dict[str, Any]:
    number, _, pixels, square = region
    name = classes.names[number]
    properties: dict[str, Any] = {"class": name, "id": number, "area_px": pixels}
    if square is not None:
        properties["area_m2"] = round(square, 3)
    if place is None:
        properties |= {
            "objectType": "annotation",
            "classification": {"name": name, "color": [*classes.colours[number]]},
        }
    return {"type": "Feature", "geometry": mapping(outline), "properties": properties}
