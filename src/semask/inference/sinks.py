"""Results of one image as files: label maps, overlays, measures, masks. Each file is there whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from tifffile import TiffWriter
from torch import Tensor

from semask.data.classes import Classes
from semask.data.readers.coco_mask import encode_mask
from semask.data.readers.regions import NODATA_TAG, Georeference
from semask.files import atomic_write, replace_folder, write_json
from semask.inference.colours import IGNORE_COLOUR, foreground, overlay, write_image, write_label
from semask.inference.rows import RowFile
from semask.recipes.prediction import PredictOptions
from semask.structures import IGNORE

PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION = "predictions", "overlays", "priors", "submission"
"""Folders of results; the name "labels" beside images/ would overwrite a data set's truth."""
UNFINISHED = ".unfinished"
"""What a killed run leaves for the next one."""
FOLDERS = (
    *(PREDICTIONS, OVERLAYS, PRIORS, SUBMISSION, "side_by_side", "confidence", "entropy", "probabilities"),
    *("polygons", "rle", "seams", "shards", UNFINISHED),
)
MANIFESTS = "manifest*.jsonl"
FILES = (MANIFESTS, "receipt*.json", "summary.csv")
"""Files beside these folders."""
SUFFIXES = ("png", "jpg", "tif", "zarr", "npz", "json", "geojson", "mp4")
"""Endings of the results of an item."""
FRAME = re.compile(r"\d{6,}\.(png|npz|json|geojson)")
"""Names of the files of a video's frames, in a folder of the video's name."""
JPEG_SIDE = 65_500
"""The longest side of a JPEG that libraries write [px]."""
TILE = 256
"""Side of the tiles of TIFF files [px], and rows that are encoded at once."""
METADATA_TAG = 42112
"""GDAL's tag of named values as XML."""

Rows = np.ndarray | RowFile
"""A map H W whose rows can be sliced."""


class Result(NamedTuple):
    """Results of one image.

    labels, confidence, entropy, prior: maps H W of bytes; labels are `IGNORE` without data. probabilities: k H W,
    float16, or the folder of a zarr store of them, which moves to the results. image: what overlays show, RGB bytes,
    every `step`-th pixel. seams: share of differing windows in cells.
    """

    labels: Rows
    image: UInt8[Tensor, "3 h w"]
    step: int = 1
    confidence: Rows | None = None
    entropy: Rows | None = None
    probabilities: np.ndarray | Path | None = None
    prior: Rows | None = None
    georeference: Georeference | None = None
    has_gaps: bool = False
    seams: np.ndarray | None = None


def item_files(out: Path, name: str, folders: Collection[str] = FOLDERS) -> Iterator[Path]:
    """Yield the results of an item: files and zarr stores, without the frames of a video."""
    for folder in folders:
        places = (out / folder / f"{name}.{suffix}" for suffix in SUFFIXES)
        # os.path, since a name may be too long for pathlib
        yield from (place for place in places if os.path.lexists(place))


def frame_files(out: Path, name: str) -> Iterator[Path]:
    """Yield the results of the frames of a video."""
    for place in (out / folder / name for folder in FOLDERS):
        if os.path.isdir(place):
            yield from (path for path in place.iterdir() if FRAME.fullmatch(path.name))


def unfinished(out: Path, name: str) -> Path:
    """The folder of an item that is not finished: flat, since the name of an item may be a folder of others."""
    return out / UNFINISHED / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Sinks:
    """Writers of the results that the options ask for, below one folder."""

    def __init__(self, options: PredictOptions, classes: Classes) -> None:
        self.options, self.classes, self.out = options, classes, options.out
        # missing packages are reported before the work
        for wanted, flag, extra, module in (
            (options.polygons, "--polygons", "geo", "semask.inference.polygons"),
            (options.labels == "zarr", "--labels zarr", "zarr", "zarr"),
        ):
            try:
                if wanted:
                    import_module(module)
            except ImportError as error:
                raise ValueError(f"{flag} needs further packages ({error}): pip install 'semask[{extra}]'") from None
        shown = foreground(classes) if options.only is None else classes.numbers(options.only, "--only")
        self.shown = shown

    def write(self, name: str, result: Result) -> Path:
        """Write all files of one image, and return the path of its label map."""
        if self.options.overlay or self.options.side_by_side:
            mixed = self.mix(result, legend=self.options.legend)
            for folder, image in self.views(result.image, mixed).items():
                suffix = "jpg" if max(image.shape) <= JPEG_SIDE else "png"
                write_image(self.out / folder / f"{name}.{suffix}", image)
        return self.write_maps(name, result)

    def write_maps(self, name: str, result: Result) -> Path:
        """Write all but overlays; the label map comes last, so that nothing is missing where it is."""
        options, out = self.options, self.out
        if result.prior is not None:
            self._write_map(PRIORS, name, result.prior, result, palette=True)
        for kind in ("confidence", "entropy"):
            if (values := getattr(result, kind)) is not None:
                self._write_map(kind, name, values, result, palette=False)
        if isinstance(result.probabilities, Path):
            # a run that was killed may have moved it before
            if result.probabilities.exists():
                replace_folder(result.probabilities, out / "probabilities" / f"{name}.zarr")
        elif result.probabilities is not None:
            write_npz(out / "probabilities" / f"{name}.npz", probabilities=result.probabilities)
        if options.rle:
            write_json(out / "rle" / f"{name}.json", {"annotations": [*_run_lengths(result.labels, self.classes)]})
        if options.polygons:
            from semask.inference.polygons import write_polygons

            write_polygons(out / "polygons" / f"{name}.geojson", result, self.classes, self.shown, options.simplify)
        if options.seams and result.seams is not None and result.seams.size:
            write_image(out / "seams" / f"{name}.png", _heat(result.seams))
        return self._write_map(PREDICTIONS, name, result.labels, result, palette=True)

    def _write_map(self, folder: str, name: str, values: Rows, result: Result, *, palette: bool) -> Path:
        """Write a map of bytes as PNG, tiled TIFF or zarr."""
        kind, place = self.options.labels, self.out / folder
        if kind == "auto":
            kind = "tif" if result.georeference is not None or isinstance(values, RowFile) else "png"
        path = place / f"{name}.{kind}"
        if kind == "png":
            ids = torch.from_numpy(values[:])
            write_label(path, ids, self.classes) if palette else write_grey(path, ids)
        elif kind == "tif":
            write_tiff(path, values, self.classes if palette else None, result)
        else:
            from semask.inference.zarr_maps import write_zarr

            write_zarr(path, values, self.classes if palette else None, result)
        return path

    def mix(self, result: Result, *, legend: bool) -> UInt8[Tensor, "3 h w"]:
        """The image with the classes' colours laid over it."""
        labels = torch.from_numpy(_thinned(result.labels, result.step))
        look: dict[str, Any] = {"alpha": self.options.alpha, "outline": self.options.outline, "legend": legend}
        return overlay(result.image, labels, self.classes, shown=self.shown, **look)

    def views(self, image: UInt8[Tensor, "3 h w"], mixed: UInt8[Tensor, "3 h w"]) -> dict[str, UInt8[Tensor, "3 h w"]]:
        """Overlay, and image beside overlay, by their folders."""
        shown = {OVERLAYS: mixed} if self.options.overlay else {}
        if self.options.side_by_side:
            shown["side_by_side"] = torch.cat([image, mixed], dim=2 if mixed.shape[1] >= mixed.shape[2] else 1)
        return shown


def to_bytes(shares: Tensor) -> np.ndarray:
    """Shares from 0 to 1 as bytes; 255 is 1.

    Raises:
        FloatingPointError: A share is NaN.
    """
    return np.asarray((_numbers(shares).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def to_halves(shares: Tensor) -> np.ndarray:
    """Shares as float16.

    Raises:
        FloatingPointError: A share is NaN.
    """
    return np.asarray(_numbers(shares).half().numpy())


def _numbers(shares: Tensor) -> Tensor:
    values = shares.cpu()
    if wrong := int(values.isnan().sum()):
        raise FloatingPointError(
            f"{wrong} of {values.numel()} probabilities are NaN: has the training of this model diverged?"
        )
    return values


def write_grey(path: Path, values: UInt8[Tensor, "H W"]) -> None:
    """Write a map of bytes as a grey PNG."""
    from PIL import Image

    with atomic_write(path) as part:
        Image.fromarray(values.numpy()).save(part, format="PNG")


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed .npz, the same bytes at every time of day."""
    with atomic_write(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getbuffer(), zipfile.ZIP_DEFLATED)


def write_tiff(path: Path, values: Rows, classes: Classes | None, result: Result) -> None:
    """Write a map of bytes as a tiled TIFF, with the classes' colours and names, and the georeference of the image.

    BigTIFF where it may exceed 4 GB. Pixels without data are `IGNORE`, which the file declares.
    """
    height, width = values.shape
    tags: list[tuple[int, Any, int, Any, bool]] = []
    if result.georeference is not None:
        tags += [(*tag, True) for tag in result.georeference.tags]
    if result.has_gaps and classes is not None:
        tags.append((NODATA_TAG, "s", 0, str(IGNORE), True))
    options: dict[str, Any] = {"photometric": "minisblack"}
    if classes is not None:
        table = np.array([*classes.colours, *[IGNORE_COLOUR] * (256 - len(classes))], np.uint16) * 257
        options = {"photometric": "palette", "colormap": table.T}
        names = "".join(
            f'<Item name="class_{number}">{_escaped(name)}</Item>' for number, name in enumerate(classes.names)
        )
        tags.append((METADATA_TAG, "s", 0, f"<GDALMetadata>{names}</GDALMetadata>", True))

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, height, TILE):
            strip = values[top : top + TILE]
            for left in range(0, width, TILE):
                yield np.ascontiguousarray(strip[:, left : left + TILE])

    with atomic_write(path) as part, TiffWriter(part, bigtiff=height * width > 2**31) as writer:
        writer.write(
            tiles(),
            shape=(height, width),
            dtype=np.uint8,
            tile=(TILE, TILE),
            compression="zlib",
            extratags=tags,
            metadata=None,
            software="semask",
            **options,
        )


def _escaped(text: str) -> str:
    from xml.sax.saxutils import escape

    # tags of text are ASCII
    return escape(text).encode("ascii", "xmlcharrefreplace").decode()


def _thinned(values: Rows, step: int) -> np.ndarray:
    """Every `step`-th pixel of a map, read by strips."""
    if step == 1:
        return values[:]
    rows = (values[first : first + step][:1, ::step] for first in range(0, len(values), step))
    return np.concatenate([*rows])


def _run_lengths(labels: Rows, classes: Classes) -> Iterator[dict[str, Any]]:
    """COCO's annotation of every class in a map: category, run lengths, area [px]."""
    whole = labels[:]
    for number in np.unique(whole):
        if number < len(classes):
            mask = whole == number
            yield {
                "category_id": int(number),
                "category": classes.names[number],
                "segmentation": {"size": [*mask.shape], "counts": encode_mask(mask)},
                "area": int(mask.sum()),
            }


def _heat(shares: np.ndarray) -> UInt8[Tensor, "3 h w"]:
    """Shares from black over red to white; grey where there is none."""
    value = torch.from_numpy(np.nan_to_num(shares))
    colours = torch.stack([(value * 3).clamp(0, 1), (value * 3 - 1).clamp(0, 1), (value * 3 - 2).clamp(0, 1)])
    colours = torch.where(torch.from_numpy(np.isnan(shares)), torch.tensor(0.5), colours)
    return (colours * 255).round().to(torch.uint8)


def shares(labels: Rows, classes: Classes) -> dict[str, float]:
    """Share of every class in the pixels of a map that have one, by its name."""
    counts = np.zeros(256, np.int64)
    for first in range(0, len(labels), 4 * TILE):
        counts += np.bincount(labels[first : first + 4 * TILE].ravel(), minlength=256)
    return shares_of(counts, classes)


def shares_of(counts: np.ndarray, classes: Classes) -> dict[str, float]:
    """The same from the counts of all 256 values."""
    known = counts[: len(classes)]
    return {
        name: round(float(count / max(1, known.sum())), 6) for name, count in zip(classes.names, known, strict=True)
    }
