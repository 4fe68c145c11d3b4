"""Arrays of local zarr stores, read by region: plain ones and OME-Zarr 0.4 and 0.5."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from semask.data.readers.regions import MAX_PIECE, Georeference, Region
from semask.data.readers.source import UnsupportedFile

AXES = "tczyx"
"""Axes of OME-Zarr in their order; arrays without names have the last of them."""
CODECS = frozenset(
    ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "delta", "shuffle", "bitround", "fixedscaleoffset")
) | {"packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose", "sharding_indexed"}
"""Codecs that turn bytes into numbers; others, such as pickle, may run programs."""


class ZarrRaster:
    """The full resolution of a store: an array of channels, rows and columns, time and depth being one."""

    georeference: Georeference | None = None

    def __init__(self, path: Path, channels: int) -> None:
        """Open a store below a folder.

        Raises:
            UnsupportedFile: It is no image of channels, or cannot be read.
        """
        try:
            import zarr
            from zarr.storage import LocalStore
        except ImportError:
            raise UnsupportedFile("a zarr store needs the package zarr: pip install 'semask[zarr]'") from None
        self.name = str(path)
        try:
            found: Any = zarr.open(LocalStore(path, read_only=True), mode="r")
            array, names = _full_resolution(found) if isinstance(found, zarr.Group) else (found, _names(found))
        except UnsupportedFile:
            raise
        except Exception as error:
            # zarr raises almost anything on broken metadata
            raise UnsupportedFile(f"unreadable zarr store ({error}); restore it") from error
        if not isinstance(array, zarr.Array):
            raise UnsupportedFile("the path of its full resolution leads to no array; restore it")
        self._array: Any = array
        axes = [*AXES[-array.ndim :]] if names is None and array.ndim in (2, 4, 5) else names or ["c", "y", "x"]
        if names is None and array.ndim == 3 and array.shape[2] == channels != array.shape[0]:
            axes = ["y", "x", "c"]
        shape = dict(zip(axes, array.shape, strict=False))
        if len(axes) != array.ndim or not {"y", "x"} <= shape.keys() <= set(AXES) or not array.size:
            raise UnsupportedFile(
                f"an array of {array.shape} with the axes {axes} is no image; they are of t, c, z, y, x"
            )
        if shape.get("t", 1) * shape.get("z", 1) > 1:
            raise UnsupportedFile(f"{shape.get('t', 1)} times and {shape.get('z', 1)} depths; save one of them alone")
        self._axes = axes
        self.height, self.width, self.channels = shape["y"], shape["x"], shape.get("c", 1)
        _check_pieces(array)

    def read(self, top: int, left: int, bottom: int, right: int) -> Region:
        """Samples of rows top … bottom - 1 and columns left … right - 1."""
        parts = {"y": slice(top, bottom), "x": slice(left, right), "c": slice(None)}
        try:
            values = np.asarray(self._array[tuple(parts.get(axis, 0) for axis in self._axes)])
        except Exception as error:
            raise ValueError(f"{self.name}: a chunk cannot be decoded ({error}); restore the store") from error
        kept = [axis for axis in self._axes if axis in parts]
        order = [kept.index(axis) for axis in "cyx" if axis in kept]
        return Region(values.transpose(order).reshape(self.channels, bottom - top, right - left), None)

    def close(self) -> None:
        """Do nothing: no file is open between two reads."""


def _full_resolution(group: Any) -> tuple[Any, list[str] | None]:
    """The first array of an OME-Zarr image, and the names of its axes."""
    attributes = dict(group.attrs)
    if "bioformats2raw.layout" in attributes and "0" in group:
        return _full_resolution(group["0"])
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise UnsupportedFile("a zarr group without multiscales; give the folder of one image or array")
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0].get("axes", ())]
    return group[scales[0]["datasets"][0]["path"]], axes or None


def _names(array: Any) -> list[str] | None:
    """Names of an array's axes, where it has them."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return [str(name).lower() for name in names] if names and all(names) else None


def _check_pieces(array: Any) -> None:
    """Refuse chunks that are too large, and types and codecs that are no plain numbers."""
    size = math.prod(array.chunks) * array.dtype.itemsize
    if size > MAX_PIECE:
        raise UnsupportedFile(
            f"one chunk holds {'×'.join(map(str, array.chunks))} samples, {size} bytes; at most {MAX_PIECE} are read; "
            "write the array again in chunks of about 512×512 px"
        )
    codecs = [codec for part in (array.filters, array.compressors) for codec in part]
    configured = [codec.get_config() if hasattr(codec, "get_config") else codec.to_dict() for codec in codecs]
    names = [str(each.get("id") or each.get("name")).removeprefix("numcodecs.") for each in configured]
    unknown = sorted({*names} - CODECS)
    if unknown or array.dtype.kind not in "uifb":
        raise UnsupportedFile(
            f"an array of {array.dtype} with the codecs {names}; numbers with the codecs {', '.join(sorted(CODECS))} "
            "are read"
        )
