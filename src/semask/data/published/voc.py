"""Pascal VOC 2012, 21 classes with the background, and the further labels of SBD.

Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2015; Hariharan et al., Semantic Contours
from Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Integer

from semask.data.published.official import Files, Found, Official, by_list, chosen, read_list, stems
from semask.data.readers.image import read_label
from semask.data.readers.mat_file import read_mat
from semask.data.readers.source import Source
from semask.recipes.voc import DATA

LISTS = "ImageSets/Segmentation"
IMAGES = r"JPEGImages/(?P<stem>[^/]+)\.jpg"
LABELS = r"SegmentationClass/(?P<stem>[^/]+)\.png"
SBD_LABELS = r"dataset/cls/(?P<stem>[^/]+)\.mat"
TRAIN_AUG = f"{LISTS}/trainaug"


def gather_augmented(files: Files) -> dict[str, Found]:
    """Return VOC's validation, and for training its own labels and SBD's of all further pictures but validation's."""
    images, own, added = stems(files, IMAGES), stems(files, LABELS), stems(files, SBD_LABELS)
    train, val = (read_list(files, f"{LISTS}/{split}.txt") for split in ("train", "val"))
    further = sorted(added.keys() - set(train) - set(val)) if train and val else []
    return {TRAIN_AUG: chosen(train + further, images, {**added, **own}), f"{LISTS}/val": chosen(val, images, own)}


def read_voc(source: Source) -> Integer[np.ndarray, "H W"]:
    """Return the values of a label of VOC (PNG) or of SBD (.mat)."""
    if PurePosixPath(source.name).suffix == ".mat":
        return read_mat(source, "GTcls", "Segmentation")
    values: np.ndarray = read_label(source).numpy()
    return values


VOC = Official(
    title="Pascal VOC 2012",
    downloads=("VOCtrainval_11-May-2012.tar",),
    data=DATA,
    counts={f"{LISTS}/train": 1464, f"{LISTS}/val": 1449},
    gather=by_list(IMAGES, LABELS, {split: f"{split}.txt" for split in (f"{LISTS}/train", f"{LISTS}/val")}),
)

VOC_AUGMENTED = Official(
    title="Pascal VOC 2012 with SBD",
    downloads=("VOCtrainval_11-May-2012.tar", "benchmark.tgz"),
    data=dataclasses.replace(DATA, train_split=TRAIN_AUG),
    counts={TRAIN_AUG: 10582, f"{LISTS}/val": 1449},
    gather=gather_augmented,
    read=read_voc,
)
