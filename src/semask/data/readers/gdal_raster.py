"""Rasters by rasterio: JPEG 2000, ERDAS Imagine, and the compressions of TIFF that tifffile does not decode alone."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window
from tifffile import TiffFile

from semask.data.readers.regions import MAX_PIECE, Georeference, Region, georeference_of, is_empty
from semask.data.readers.source import UnsupportedFile, first_bytes

DRIVERS = {b"EHFA": "HFA", b"\0\0\0\x0c": "JP2OpenJPEG", b"\xffO\xffQ": "JP2OpenJPEG"}
"""Drivers of GDAL by the first bytes of their files; those of TIFF differ. Others may open addresses and archives."""
CACHE = 2**28
"""Decoded blocks that GDAL keeps [bytes]."""


class GdalRaster:
    """A raster that rasterio reads; alpha, masks and nodata mark pixels without data, a palette becomes RGB."""

    def __init__(self, path: Path, channels: int, cause: str = "") -> None:
        """`cause` says why another reader did not take the file.

        Raises:
            UnsupportedFile: It cannot be read.
        """
        self.name = str(path)
        # reader threads share the filters of warnings, so that they cannot be set back
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE):
                driver = DRIVERS.get(first_bytes(path)[:4], "GTiff")
                self._file: DatasetReader = rasterio.open(path.absolute(), driver=driver)
        except RasterioError as error:
            raise UnsupportedFile(f"{cause}rasterio cannot read it ({error}); restore the file") from error
        try:
            self._open(channels)
        except BaseException as error:
            self._file.close()
            if isinstance(error, Exception) and not isinstance(error, ValueError):
                raise UnsupportedFile(f"{cause}unreadable by rasterio ({error}); restore the file") from error
            raise

    def _open(self, channels: int) -> None:
        file = self._file
        self.height, self.width = file.height, file.width
        kinds = {np.dtype(kind) for kind in file.dtypes}
        if len(kinds) > 1 or next(iter(kinds)).kind not in "uifb":
            raise UnsupportedFile(f"bands of {', '.join(file.dtypes)}; save them with one type of real numbers")
        tall, wide = max(file.block_shapes, key=math.prod)
        if tall * wide * file.count * next(iter(kinds)).itemsize > MAX_PIECE:
            raise UnsupportedFile(
                f"one compressed block holds {tall}×{wide} px, which cannot be read in parts; write the file again in "
                "tiles, for example by `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE`"
            )
        is_palette = file.count == 1 and file.colorinterp[0] == ColorInterp.palette
        self._palette: np.ndarray | None = None
        if is_palette:
            colours = file.colormap(1)
            self._palette = np.zeros((256, 3), np.uint8)
            self._palette[[*colours]] = [colour[:3] for colour in colours.values()]
        self._alpha = file.count != channels and file.colorinterp[-1] == ColorInterp.alpha
        self._masked = MaskFlags.per_dataset in file.mask_flag_enums[0] and not self._has_alpha_mask
        self.channels = 3 if is_palette else file.count - self._alpha
        self.georeference = self._georeference()

    @property
    def _has_alpha_mask(self) -> bool:
        return MaskFlags.alpha in self._file.mask_flag_enums[0]

    def _georeference(self) -> Georeference | None:
        """The tags that GDAL gives a GeoTIFF of the same place."""
        file = self._file
        points, crs = file.gcps
        is_plain = file.crs is None and file.transform.is_identity
        place = {"crs": crs, "gcps": points} if points and crs else {"crs": file.crs, "transform": file.transform}
        if is_plain and "gcps" not in place and file.rpcs is None:
            return None
        with MemoryFile() as memory:
            profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
            with memory.open(**profile, **place, rpcs=file.rpcs) as pixel:
                pixel.write(np.zeros((1, 1, 1), np.uint8))
            with TiffFile(io.BytesIO(memory.read())) as tiff:
                return georeference_of(tiff.pages.first.tags)

    def read(self, top: int, left: int, bottom: int, right: int) -> Region:
        """Samples of rows top … bottom - 1 and columns left … right - 1."""
        window = Window(left, top, right - left, bottom - top)
        try:
            samples: np.ndarray = self._file.read(window=window)
            masks = self._file.read_masks(1, window=window) if self._masked else None
        except RasterioError as error:
            raise ValueError(f"{self.name}: cannot be decoded ({error}); restore the file") from error
        # which pixels have data
        valid = np.ones(samples.shape[1:], bool) if masks is None else masks > 0
        if self._alpha:
            valid, samples = valid & (samples[-1] > 0), samples[:-1]
        if self._file.nodata is not None:
            valid = valid & ~is_empty(samples, self._file.nodata)
        if self._palette is not None:
            samples = np.moveaxis(self._palette[samples[0]], -1, 0)
        return Region(samples, None if valid.all() else valid)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
