"""Regions of rasters that are too large to read whole: TIFFs without further packages, others by rasterio or zarr."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile

from semask.data.readers.image import GDAL_STARTS
from semask.data.readers.source import UnsupportedFile, first_bytes
from semask.data.readers.tiff import UPRIGHT, is_tiff, orientation

CACHED = 2**28
"""Decoded tiles and strips that are kept [bytes]; at least those under the last region."""
MAX_PIECE = 2**28
"""The largest tile or strip that is decoded [bytes]."""
GEO_TAGS = {33550: 12, 33922: 12, 34264: 12, 34735: 3, 34736: 12, 34737: 2, 50844: 12}
"""GeoTIFF's tags by their types: pixel scale, tie points, transformation, keys, their numbers and texts, and RPC."""
NODATA_TAG = 42113
"""GDAL's tag of the value that marks pixels without data."""
SHOWN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)
"""Colours of TIFFs that are grey, RGB or bands once they are decoded."""
JPEG = (COMPRESSION.OJPEG, COMPRESSION.JPEG)
"""Compressions that turn YCbCr into RGB."""


class Georeference(NamedTuple):
    """Where a raster lies: GeoTIFF's tags, as (code, type, count, value)."""

    tags: tuple[tuple[int, int, int, Any], ...]


class Region(NamedTuple):
    """Samples of a region, c h w, in the file's own type, and which of its pixels have data; None: all."""

    samples: np.ndarray
    valid: np.ndarray | None


@runtime_checkable
class Raster(Protocol):
    """A raster that is read by region: its size [px], channels, type of samples, and place on the earth."""

    name: str
    height: int
    width: int
    channels: int
    georeference: Georeference | None

    def read(self, top: int, left: int, bottom: int, right: int) -> Region:
        """Samples of rows top … bottom - 1 and columns left … right - 1, which lie inside the raster.

        Raises:
            ValueError: They cannot be decoded.
        """

    def close(self) -> None:
        """Close the file."""


class TiffRaster:
    """Tiles or strips of a TIFF: classic or big, tiled or not, OME or GeoTIFF.

    Channels are samples of a pixel, or pages. A palette becomes RGB. Alpha marks pixels without data, as GDAL's nodata
    value does, unless it is one of the `channels` that the model takes.
    """

    def __init__(self, path: Path, channels: int) -> None:
        # files that an OME header names beside this one stay closed
        self.name, self._file = str(path), TiffFile(path, _multifile=False)
        try:
            self._open(channels)
        except BaseException as error:
            self._file.close()
            if isinstance(error, Exception) and not isinstance(error, ValueError):
                # tifffile raises almost anything on broken bytes
                raise UnsupportedFile(f"unreadable TIFF ({error}); restore the file") from error
            raise

    def _open(self, channels: int) -> None:
        series: Any = self._file.series[0].levels[0]
        page: Any = series.keyframe
        axes = series.axes.replace("I", "C").replace("Q", "C")
        if axes not in ("YX", "YXS", "SYX", "CYX") or math.prod(series.shape) != series.size:
            shape = "×".join(map(str, series.shape))
            raise UnsupportedFile(f"a TIFF of {shape} samples ({series.axes}) is no image of channels; save one alone")
        if orientation(page) != UPRIGHT:
            raise UnsupportedFile(f"is stored turned or mirrored (orientation {orientation(page)}); save it upright")
        self.height, self.width = page.imagelength, page.imagewidth
        self._pages: list[Any] = [each for each in series.pages if each is not None]
        self._samples, self._planar = page.samplesperpixel, page.planarconfig == 2 and page.samplesperpixel > 1
        self._palette = page.colormap if page.photometric == PHOTOMETRIC.PALETTE else None
        self._inverted = page.photometric == PHOTOMETRIC.MINISWHITE
        stored = len(self._pages) * self._samples
        if stored * self.height * self.width != series.size:
            raise UnsupportedFile(f"a TIFF of {series.shape} samples with {stored} channels in its pages; restore it")
        if page.photometric not in SHOWN or (page.photometric == PHOTOMETRIC.YCBCR and page.compression not in JPEG):
            raise UnsupportedFile(f"a TIFF in {page.photometric.name} colours; save it as grey, RGB or bands")
        if page.dtype is None or page.dtype.kind not in "uifb" or page.dtype.itemsize * 8 != page.bitspersample:
            raise UnsupportedFile(f"{page.bitspersample} bits per sample; save it with 8, 16, 32 or 64")
        with suppress(IndexError):
            if getattr(self._file.pages[1], "is_mask", False):
                raise UnsupportedFile("a mask of pixels without data in a page of its own")
        self._alpha = stored != channels and len(self._pages) == 1 and tuple(page.extrasamples)[-1:] in ((1,), (2,))
        self.channels = 3 if self._palette is not None else stored - self._alpha
        # the pieces: tiles, or strips as wide as the image
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.width)
        self._piece = min(tall, self.height) if not page.is_tiled else tall, wide
        listed = {len(each) for one in self._pages for each in (one.dataoffsets, one.databytecounts)}
        if listed != {math.prod(page.chunked)}:
            raise UnsupportedFile("a TIFF whose tiles or strips are not all listed; restore the file")
        plain = page.compression == 1 and page.dtype is not None and page.fillorder == 1 and page.predictor == 1
        # a strip that is stored as it is can be read by rows
        self._rows = plain and not page.is_tiled and page.bitspersample in (8, 16, 32, 64)
        size = math.prod(self._piece) * page.dtype.itemsize * (1 if self._planar else self._samples)
        if size > MAX_PIECE and not self._rows:
            kind = "tile" if page.is_tiled else "strip"
            raise UnsupportedFile(
                f"one compressed {kind} holds {self._piece[0]}×{self._piece[1]} px, which cannot be read in parts; "
                "write the file again in tiles, for example by `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE`"
            )
        tags = self._file.pages.first.tags
        self._nodata: float | None = None
        if NODATA_TAG in tags:
            with suppress(ValueError):
                self._nodata = float(str(tags[NODATA_TAG].value).strip("\0 "))
        self.georeference = georeference_of(tags)
        self._cache: OrderedDict[tuple[int, int], np.ndarray | None] = OrderedDict()
        # one piece tells whether the compression is known
        first = next((index for index, size in enumerate(page.databytecounts) if size), None)
        if first is not None and not self._rows:
            self._decoded(0, page, first, 1 if self._planar else self._samples)

    def read(self, top: int, left: int, bottom: int, right: int) -> Region:
        """Samples of rows top … bottom - 1 and columns left … right - 1."""
        box = top, left, bottom, right
        planes = range(self._samples if self._planar else 1)
        try:
            parts = [self._read(n, page, plane, *box) for n, page in enumerate(self._pages) for plane in planes]
        except UnsupportedFile as error:
            raise ValueError(f"{self.name}: {error}") from error
        samples = np.concatenate([values for values, _ in parts])
        sparse = np.logical_and.reduce([there for _, there in parts])
        # which pixels have data
        valid = sparse
        if self._alpha:
            valid, samples = valid & (samples[-1] > 0), samples[:-1]
        if self._nodata is not None:
            valid = valid & ~is_empty(samples, self._nodata)
        if self._palette is not None:
            samples = (self._palette[:, samples[0]] >> 8).astype(np.uint8)
        elif self._inverted and samples.dtype.kind in "ub":
            samples = ~samples
        return Region(samples, None if valid.all() else valid)

    def _read(
        self, number: int, page: Any, plane: int, top: int, left: int, bottom: int, right: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a page and plane, c h w, and where there are pieces: sparse files leave some out."""
        tall, wide = self._piece
        across, down = -(-self.width // wide), -(-self.height // tall)
        count = 1 if self._planar else self._samples
        found = np.zeros((count, bottom - top, right - left), page.dtype)
        there = np.ones(found.shape[1:], bool)
        for row in range(top // tall, -(-bottom // tall)):
            for column in range(left // wide, -(-right // wide)):
                first, last = max(top, row * tall), min(bottom, (row + 1) * tall)
                start, stop = max(left, column * wide), min(right, (column + 1) * wide)
                place = slice(first - top, last - top), slice(start - left, stop - left)
                index = (plane * down + row) * across + column
                if self._rows:
                    piece = self._stored_rows(page, index, first - row * tall, last - row * tall, count)
                    inside = slice(None), slice(start, stop)
                else:
                    piece = self._decoded(number, page, index, count)
                    inside = (
                        slice(first - row * tall, last - row * tall),
                        slice(start - column * wide, stop - column * wide),
                    )
                if piece is None:
                    there[place] = False
                else:
                    found[:, *place] = piece[:, *inside]
        return found, there

    def _stored_rows(self, page: Any, index: int, first: int, last: int, count: int) -> np.ndarray | None:
        """Rows first … last - 1 of a strip without compression, c h w."""
        if not page.databytecounts[index]:
            return None
        line = self.width * count
        kind = page.dtype.newbyteorder(self._file.byteorder)
        handle = self._file.filehandle
        handle.seek(min(page.dataoffsets[index] + first * line * kind.itemsize, handle.size))
        content = handle.read((last - first) * line * kind.itemsize)
        if len(content) != (last - first) * line * kind.itemsize:
            raise UnsupportedFile("the file is cut short; restore it")
        values = np.frombuffer(content, kind).reshape(last - first, self.width, count)
        return np.moveaxis(values, -1, 0).astype(page.dtype, copy=False)

    def _decoded(self, number: int, page: Any, index: int, count: int) -> np.ndarray | None:
        """A decoded tile or strip, c h w, kept for the next region; None where the file has none."""
        key = number, index
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        piece: np.ndarray | None = None
        if page.databytecounts[index]:
            handle = self._file.filehandle
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.jpegtables else {}
            try:
                handle.seek(page.dataoffsets[index])
                # a broken file may claim any size
                content = handle.read(min(page.databytecounts[index], handle.size))
                decoded, _, shape = page.decode(content, index, **tables)
                piece = np.moveaxis(decoded.reshape(*shape[1:3], -1), -1, 0)
            except Exception as error:
                raise UnsupportedFile(f"tile or strip {index} cannot be decoded ({error}); restore the file") from error
            if len(piece) != count:
                raise UnsupportedFile(f"tile or strip {index} has {len(piece)} samples, not {count}; restore the file")
        self._cache[key] = piece
        # the oldest go
        while (
            len(self._cache) > 1 and sum(0 if each is None else each.nbytes for each in self._cache.values()) > CACHED
        ):
            self._cache.popitem(last=False)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def georeference_of(tags: Any) -> Georeference | None:
    """GeoTIFF's tags of a page; None without any."""
    found = tuple((code, kind, tags[code].count, tags[code].value) for code, kind in GEO_TAGS.items() if code in tags)
    return Georeference(found) if found else None


def is_empty(samples: np.ndarray, nodata: float) -> np.ndarray:
    """Which pixels, H W, have GDAL's nodata value in all channels."""
    empty = np.isnan(samples) if math.isnan(nodata) else samples == nodata
    return np.asarray(empty.all(axis=0))


def open_raster(path: Path, *, channels: int, least: int) -> Raster | None:
    """A file that is read by region: one with a georeference, one of more than `least` pixels, or a zarr store.

    None: the readers of whole images take it. `channels`: those that the model takes.

    Raises:
        ValueError: The file is too large for these and cannot be read by region.
    """
    start = first_bytes(path)
    try:
        if path.is_dir():
            from semask.data.readers.zarr_store import ZarrRaster

            return ZarrRaster(path, channels)
        if start.lstrip().startswith(b"<VRTDataset") or path.suffix.lower() == ".vrt":
            raise UnsupportedFile(
                "a VRT, which may name any file or address; write its pixels to one file, for example by "
                "`gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN.vrt OUT.tif`"
            )
        tiff = is_tiff(start)
        if not (start.startswith(GDAL_STARTS) or (tiff and _by_region(path, least))):
            return None
        try:
            if tiff:
                return TiffRaster(path, channels)
            cause = ""
        except UnsupportedFile as error:
            cause = f"{error}; "
        try:
            from semask.data.readers.gdal_raster import GdalRaster
        except ImportError:
            kinds = "'semask[geo]' or 'semask[tiff]'" if tiff else "'semask[geo]'"
            raise UnsupportedFile(f"{cause}other packages may read it: pip install {kinds}") from None
        return GdalRaster(path, channels, cause)
    except UnsupportedFile as error:
        raise ValueError(f"{path}: {error}") from None


def _by_region(path: Path, least: int) -> bool:
    """Whether a TIFF has a georeference or more than `least` pixels; broken ones have not, whose reader says why."""
    with suppress(Exception), TiffFile(path) as file:
        page: Any = file.pages.first
        return georeference_of(page.tags) is not None or page.imagelength * page.imagewidth > least
    return False
