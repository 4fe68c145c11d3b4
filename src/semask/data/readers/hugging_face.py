"""Datasets that the Hugging Face library `datasets` has saved to disk: one column of pictures, one of labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

from semask.data.readers.source import MAX_BYTES, Source, Unreadable
from semask.recipes.recipe import DataRecipe

IMAGES = ("image", "images", "img", "picture", "photo", "pixel_values", "jpg", "png")
LABELS = (
    *("label", "labels", "annotation", "annotations", "mask", "masks", "segmentation", "segmentation_mask"),
    *("semantic_segmentation", "label_map", "seg", "ground_truth"),
)
"""Names of columns that are looked for, in this order."""
NUMBERED = ("binary", "large_binary", "string", "large_string")
"""Columns besides those of pictures that can hold them: their bytes or their paths."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture in a table: the folder of its split, the column and the row, counted from 0."""

    folder: Path
    column: str
    row: int

    @property
    def name(self) -> str:
        """The row and the column."""
        return f"{self.row:06d}.{self.column}"

    def __str__(self) -> str:
        return f"{self.folder}, row {self.row}, column {self.column!r}"

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the picture's bytes, which the table holds or the file it names; `Unreadable` tells neither."""
        value = _column(self.folder, self.column)[self.row][self.column]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(content, bytes):
            if len(content) > MAX_BYTES:
                raise Unreadable(f"{self}: {len(content)} bytes, more than the {MAX_BYTES} that are read; shrink it")
            return BytesIO(content)
        file = self.folder / path if isinstance(path, str) else None
        if file is None or not file.is_file():
            told = "is empty" if path is None else f"names {path!r}, which is no file"
            raise Unreadable(f"{self}: {told}; save the dataset with its pictures, or remove the row")
        return file.open(mode)


def dataset_rows(data: DataRecipe, root: Path, split: str) -> dict[str, tuple[Source, Source]]:
    """Return the picture and label of every row of a split by its number.

    Raises:
        ValueError: `datasets` is not installed, the split is missing or empty, or a column is not found.
    """
    folder = root / split
    if not (folder / "state.json").is_file():
        raise ValueError(f"no dataset in {folder}{expected(root)}")
    table = open_table(folder)
    image = _found(table.features, data.image_column, IMAGES, "image_column", folder)
    label = _found(table.features, data.label_column, LABELS, "label_column", folder)
    if not len(table):
        raise ValueError(f"the {split!r} split is empty: {folder} has no rows")
    return {f"{row:06d}": (Cell(folder, image, row), Cell(folder, label, row)) for row in range(len(table))}


def expected(root: Path | str) -> str:
    """Return what a saved dataset looks like, for messages."""
    return (
        f"\nexpected below {root}, as DatasetDict.save_to_disk writes it:\n"
        "  train/state.json, dataset_info.json, *.arrow\n"
        "  val/state.json, …   (other names by --data.train-split and --data.val-split)\n"
        "with a column of pictures and one of labels (--data.image-column, --data.label-column)"
    )


@lru_cache(maxsize=8)
def open_table(folder: Path) -> Any:
    """Open one split; it stays on disk and its rows are read when asked for."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ValueError("data.kind hugging_face needs the package `datasets`: pip install 'semask[hf]'") from error
    try:
        return load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: no readable dataset ({error}); save it anew with save_to_disk") from error


@lru_cache(maxsize=16)
def _column(folder: Path, column: str) -> Any:
    """Return one column whose pictures are not decoded."""
    from datasets import Image

    table = open_table(folder).select_columns([column])
    return table.cast_column(column, Image(decode=False)) if isinstance(table.features[column], Image) else table


def _found(features: Any, given: str | None, usual: tuple[str, ...], field: str, folder: Path) -> str:
    able = [name for name, feature in features.items() if _holds_pictures(feature)]
    names = [given] if given is not None else [name for name in usual if name in able]
    if not names or names[0] not in able:
        wanted = repr(given) if given is not None else f"called {', '.join(usual)}"
        flag = f"--data.{field.replace('_', '-')}"
        raise ValueError(
            f"{folder}: no column of pictures {wanted}; such columns are {', '.join(able) or 'none'} "
            f"(of {', '.join(features)}); name one by {flag}"
        )
    return names[0]


def _holds_pictures(feature: Any) -> bool:
    kind = type(feature).__name__
    return kind == "Image" or (kind == "Value" and feature.dtype in NUMBERED)
