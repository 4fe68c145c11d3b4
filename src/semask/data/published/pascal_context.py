"""Pascal Context, 59 classes and the background, on the images of VOC 2010.

The published labels have 459 classes, as .mat files (`trainval.tar.gz`) or as masks in a JSON file
(`trainval_merged.json`); 59 of their ids are scored, and all others are background.

Source: Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from semask.data.classes import Classes
from semask.data.published.official import Files, Official, SplitFiles, by_stem, read_list, renumber, select
from semask.data.readers.coco_mask import decode_mask
from semask.data.readers.image import read_label
from semask.data.readers.mat_file import read_mat
from semask.data.readers.source import MAX_PIXELS, Source, Unreadable
from semask.recipes.pascal_context import DATA

JSON = "trainval_merged.json"
LISTS = {DATA.train_split: "ImageSets/Main/train.txt", DATA.val_split: "ImageSets/Main/val.txt"}
"""VOC 2010's own splits; all of its images are labelled."""


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one image in the JSON file: a source whose content is the label map as PNG of class numbers.

    masks: official id and mask, in the file's order; later ones cover earlier ones.
    """

    file: str
    name: str
    height: int
    width: int
    masks: tuple[tuple[int, Any], ...]

    def __str__(self) -> str:
        return f"{self.file}, masks of {self.name}"

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Paint the label map."""
        ids = np.zeros((self.height, self.width), np.int32)
        try:
            for number, mask in self.masks:
                ids[decode_mask(mask, height=self.height, width=self.width)] = number
            labels = _scored(ids)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unreadable(f"{self}: {error}; fetch the file again") from error
        file = BytesIO()
        Image.fromarray(labels).save(file, "PNG")
        file.seek(0)
        return file


def gather_context(files: Files) -> dict[str, SplitFiles]:
    """Find the labels in whichever form is there."""
    images = by_stem(files, r"JPEGImages/(?P<stem>[^/]+)\.jpg")
    merged = [source for path, source in files.items() if PurePosixPath(path).name == JSON]
    labels = read_masks(merged[0]) if merged else by_stem(files, r"trainval/(?P<stem>[^/]+)\.mat")
    return {split: select(names, images, labels) for split, path in LISTS.items() if (names := read_list(files, path))}


def read_masks(source: Source) -> dict[str, Source]:
    """Return the masks in the JSON file by the stems of their images.

    Raises:
        ValueError: the file has another form, or an image is too large.
    """
    try:
        with source.open("rb") as file:
            record = json.load(file)
        # masks by image
        masks: dict[Any, list[tuple[int, Any]]] = {}
        for entry in record["annos_segmentation"]:
            mask = entry["segmentation"] if "segmentation" in entry else entry["mask"]
            masks.setdefault(entry["image_id"], []).append((int(entry["category_id"]), mask))
        images = [
            Masks(
                str(source), str(image["file_name"]), int(image["height"]), int(image["width"]),
                tuple(masks.get(image["image_id"], ())),
            )
            for image in record["images"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{source}: not the expected JSON with images and annos_segmentation ({type(error).__name__}: {error}); "
            "give trainval.tar.gz with its .mat files instead"
        ) from error
    if large := [image for image in images if not 0 < image.height * image.width <= MAX_PIXELS]:
        raise ValueError(f"{large[0]}: {large[0].height}×{large[0].width} pixels; fetch the file again")
    return {PurePosixPath(image.name).stem: image for image in images}


def read_context(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the class numbers of a .mat file or of masks; 0 is the background."""
    if PurePosixPath(source.name).suffix == ".mat":
        return _scored(read_mat(source, "LabelMap"))
    values: np.ndarray = read_label(source).numpy().astype(np.uint8)
    return values


def _scored(ids: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    return renumber(ids, Classes.load("pascal-context"), rest=0, largest=459)


PASCAL_CONTEXT = Official(
    title="Pascal Context",
    downloads=("VOCtrainval_03-May-2010.tar", f"trainval.tar.gz or {JSON}"),
    data=DATA,
    counts={DATA.train_split: 4998, DATA.val_split: 5105},
    gather=gather_context,
    read=read_context,
)
