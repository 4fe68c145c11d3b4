"""Areas on the earth: the CRS and transform of a georeference, and square metres of pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.warp import transform as transform_points
from tifffile import imwrite

from semask.data.readers.regions import Georeference

if TYPE_CHECKING:
    from semask.inference.sinks import Rows

LONGITUDE_LATITUDE = "EPSG:4326"
RADIUS, FLATTENING = 6_378_137.0, 1 / 298.257223563
"""The ellipsoid of WGS 84: its equatorial radius [m] and its flattening."""
ROWS = 256
"""Rows that are counted at once."""


class Place(NamedTuple):
    """Where a raster lies: a CRS of rasterio, and the affine transform from columns and rows to its coordinates."""

    crs: Any
    transform: Any

    def longitude_latitude(self, points: np.ndarray) -> np.ndarray:
        """Degrees of longitude and latitude (n, 2) of WGS 84 at corners (column, row) of pixels."""
        a, b, c, d, e, f = self.transform[:6]
        x, y = (points @ np.array([[a, d], [b, e]]) + (c, f)).T
        return np.stack(transform_points(self.crs, LONGITUDE_LATITUDE, x, y)[:2], axis=1)

    def pixel_areas(self, height: int) -> np.ndarray | None:
        """Area [m²] of a pixel in every row; None for a CRS that has none.

        Exact on the ellipsoid where rows follow a parallel: geographic CRS and Mercator, whose own plane would be up to
        several times too large. Other projections have the area of their plane.
        """
        a, b, _, d, e, _ = self.transform[:6]
        along_parallels = self.crs.is_geographic or self.crs.to_dict().get("proj") in ("merc", "webmerc")
        if along_parallels and b == d == 0:
            edges = np.stack([np.zeros(height + 1), np.arange(height + 1)], axis=1)
            latitude = np.radians(self.longitude_latitude(edges)[:, 1])
            west, east = self.longitude_latitude(np.array([[0.0, 0.0], [1.0, 0.0]]))[:, 0]
            width = np.radians((east - west + 180) % 360 - 180)
            areas: np.ndarray = np.abs(width * np.diff(zone_area(latitude)))
            return areas
        if not self.crs.is_projected or along_parallels:
            return None
        return np.full(height, abs(a * e - b * d) * self.crs.linear_units_factor[1] ** 2)


def read_place(georeference: Georeference | None) -> Place | None:
    """CRS and transform of GeoTIFF's tags, as GDAL understands them; None where one is missing."""
    if georeference is None:
        return None
    # writer threads share the filters of warnings, so that they cannot be set back
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    content = io.BytesIO()
    tags = [(*tag, True) for tag in georeference.tags]
    imwrite(content, np.zeros((1, 1), np.uint8), extratags=tags, metadata=None, photometric="minisblack")
    with MemoryFile(content.getvalue()) as memory, memory.open() as pixel:
        missing = pixel.crs is None or pixel.transform.is_identity
        return None if missing else Place(pixel.crs, pixel.transform)


def zone_area(latitude: np.ndarray) -> np.ndarray:
    """Area [m²] between the equator and latitudes [rad], per radian of longitude.

    Source: Snyder, Map Projections: A Working Manual (1987), eq. 3-12, b²/2 · q / (1 - e²).
    """
    squared = FLATTENING * (2 - FLATTENING)
    e, sine = np.sqrt(squared), np.sin(latitude)
    q = sine / (1 - squared * sine**2) + np.arctanh(e * sine) / e
    return np.asarray(RADIUS**2 * (1 - squared) / 2 * q)


def class_areas(labels: Rows, georeference: Georeference | None, names: tuple[str, ...]) -> dict[str, float]:
    """Area [m²] of every class in a label map, by its name; empty where the raster has no place on the earth."""
    place = read_place(georeference)
    areas = place and place.pixel_areas(len(labels))
    if areas is None:
        return {}
    total = np.zeros(256)
    for first in range(0, len(labels), ROWS):
        strip = labels[first : first + ROWS]
        # labels of every row on their own
        places = strip + 256 * np.arange(len(strip))[:, None]
        counts = np.bincount(places.ravel(), minlength=256 * len(strip)).reshape(-1, 256)
        total += areas[first : first + len(strip)] @ counts
    return {name: round(float(area), 3) for name, area in zip(names, total, strict=False)}
