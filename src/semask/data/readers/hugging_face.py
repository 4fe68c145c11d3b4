"""Datasets that the Hugging Face library `datasets` saved to disk: one column of images, one of labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal

from semask.data.readers.source import MAX_BYTES, Source, Unreadable, is_hidden
from semask.recipes.recipe import DataRecipe

IMAGES = ("image", "images", "img", "picture", "photo", "pixel_values", "jpg", "png")
LABELS = (
    *("label", "labels", "annotation", "annotations", "mask", "masks", "segmentation", "segmentation_mask"),
    *("semantic_segmentation", "label_map", "seg", "ground_truth"),
)
"""Default names of columns, in order of preference."""
BYTES_OR_PATHS = ("binary", "large_binary", "string", "large_string")
"""Types of columns, besides those of images, that can hold images: as bytes or paths."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An image in a table: the folder of its split, the column and the row, counted from 0."""

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
        """Return the image's bytes, from the table or from the file that it names.

        Raises:
            Unreadable: the cell is empty, too large, or names no file.
        """
        value = _open_column(self.folder, self.column)[self.row][self.column]
        # images are {"bytes": …, "path": …}; columns of bytes or paths hold them alone
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(content, bytes):
            if len(content) > MAX_BYTES:
                raise Unreadable(f"{self}: {len(content)} bytes, more than the {MAX_BYTES} that are read; shrink it")
            return BytesIO(content)
        file = self.folder / path if isinstance(path, str) else None
        if file is None or not file.is_file():
            what = "is empty" if path is None else f"names {path!r}, which is no file"
            raise Unreadable(f"{self}: {what}; save the dataset with its images, or remove the row")
        return file.open(mode)


def dataset_rows(data: DataRecipe, root: Path, split: str) -> dict[str, tuple[Source, Source]]:
    """Return the image and label of every row of a split by its number.

    Raises:
        ValueError: `datasets` is not installed, the split is missing or empty, or a column is not found.
    """
    folder = root / split
    if not (folder / "state.json").is_file():
        raise ValueError(f"no dataset in {folder}{expected_dataset(root)}")
    table = open_table(folder)
    image = _find_column(table.features, data.image_column, IMAGES, "--data.image-column", folder)
    label = _find_column(table.features, data.label_column, LABELS, "--data.label-column", folder)
    hidden = _hidden_rows(table, image) | _hidden_rows(table, label)
    if len(table) == len(hidden):
        raise ValueError(f"the {split!r} split is empty: {folder} has no rows but {len(hidden)} of hidden files")
    rows = (row for row in range(len(table)) if row not in hidden)
    return {f"{row:06d}": (Cell(folder, image, row), Cell(folder, label, row)) for row in rows}


def _hidden_rows(table: Any, column: str) -> set[int]:
    """Return the rows whose files were hidden ones, by their paths alone: the bytes beside those are not read."""
    feature = table.features[column]
    is_image = type(feature).__name__ == "Image"
    if not is_image and "string" not in feature.dtype:
        return set()
    chunks = table.data.column(column).chunks
    paths = [path for chunk in chunks for path in (chunk.field("path") if is_image else chunk).to_pylist()]
    # of an absolute path only the name is known to lie below a root
    given = [(row, PurePath(path)) for row, path in enumerate(paths) if path]
    return {row for row, path in given if is_hidden(path.name if path.is_absolute() else path.as_posix())}


def expected_dataset(root: Path | str) -> str:
    """Return the layout of a saved dataset, for messages."""
    return (
        f"\nexpected below {root}, as DatasetDict.save_to_disk writes it:\n"
        "  train/state.json, dataset_info.json, *.arrow\n"
        "  val/state.json, …   (other names by --data.train-split and --data.val-split)\n"
        "with a column of images and one of labels (--data.image-column, --data.label-column)"
    )


@lru_cache(maxsize=8)
def open_table(folder: Path) -> Any:
    """Open one split; it stays on disk, and rows are read on demand."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ValueError("data.kind hugging_face needs the package `datasets`: pip install 'semask[hf]'") from error
    try:
        return load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: no readable dataset ({error}); save it anew with save_to_disk") from error


@lru_cache(maxsize=16)
def _open_column(folder: Path, column: str) -> Any:
    """Return one column without decoding its images."""
    from datasets import Image

    # our own reader decodes, with its limits
    table = open_table(folder).select_columns([column])
    return table.cast_column(column, Image(decode=False)) if isinstance(table.features[column], Image) else table


def _find_column(features: Any, given: str | None, usual: tuple[str, ...], flag: str, folder: Path) -> str:
    # columns that can hold images, and among them the given or usual name
    able = [
        name
        for name, feature in features.items()
        if type(feature).__name__ == "Image" or (type(feature).__name__ == "Value" and feature.dtype in BYTES_OR_PATHS)
    ]
    name = given if given is not None else next((name for name in usual if name in able), None)
    if name is None or name not in able:
        wanted = repr(given) if given is not None else f"called {', '.join(usual)}"
        raise ValueError(
            f"{folder}: no column of images {wanted}; such columns are {', '.join(able) or 'none'} "
            f"(of {', '.join(features)}); name one by {flag}"
        )
    return name
