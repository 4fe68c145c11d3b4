"""Maps as OME-Zarr 0.5: label images with the classes' colours and names, and probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from semask.data.classes import Classes
from semask.files import atomic_folder
from semask.structures import IGNORE

if TYPE_CHECKING:
    from semask.inference.sinks import Result, Rows

CHUNK = 512
"""Side of the chunks of maps [px], and rows that are encoded at once."""
STRIP = 256
"""Side of the chunks of probabilities [px], which hold all classes."""


def write_zarr(path: Path, values: Rows, classes: Classes | None, result: Result) -> None:
    """Write a map of bytes by rows, as a label image if there are classes; without data it is `IGNORE`."""
    extra: dict[str, Any] = {}
    if classes is not None:
        colours = [{"label-value": number, "rgba": [*colour, 255]} for number, colour in enumerate(classes.colours)]
        names = [{"label-value": number, "class": name} for number, name in enumerate(classes.names)]
        # pixels without data are clear
        colours.append({"label-value": IGNORE, "rgba": [0, 0, 0, 0]})
        extra["image-label"] = {"colors": colours, "properties": names}
    with atomic_folder(path) as part:
        array = _create(part, path.stem, tuple(values.shape), "uint8", "yx", (CHUNK, CHUNK), extra)
        for first in range(0, len(values), CHUNK):
            array[first : first + CHUNK] = values[first : first + CHUNK]


def open_probabilities(path: Path, shape: tuple[int, int, int], classes: Classes, *, fresh: bool) -> Any:
    """The array k H W of float16 that strips of probabilities are written to; `fresh` begins it anew.

    Raises:
        ValueError: The package is missing.
    """
    try:
        import zarr
    except ImportError:
        raise ValueError(
            "the probabilities of a raster that is read by region are written to zarr: pip install 'semask[zarr]', or "
            "leave out --probabilities"
        ) from None
    if not fresh:
        return zarr.open_array(path / "0", mode="r+")
    window = {"min": 0, "max": 1, "start": 0, "end": 1}
    channels = [
        {"label": name, "color": bytes(colour).hex().upper(), "window": window, "active": True}
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]
    return _create(
        path, path.stem, shape, "float16", "cyx", (shape[0], STRIP, STRIP), {"omero": {"channels": channels}}
    )


def _create(
    path: Path, name: str, shape: tuple[int, ...], kind: str, axes: str, chunks: tuple[int, ...], extra: dict[str, Any]
) -> Any:
    """An image of one resolution in a new store: its array."""
    import zarr

    kinds = [{"name": axis, "type": "channel" if axis == "c" else "space"} for axis in axes]
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    scales = {"name": name, "axes": kinds, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    attributes = {"ome": {"version": "0.5", "multiscales": [scales], **extra}}
    group = zarr.create_group(path, overwrite=True, attributes=attributes)
    return group.create_array("0", shape=shape, dtype=kind, chunks=chunks, dimension_names=[*axes])
