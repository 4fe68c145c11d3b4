"""The published datasets by name."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Integer, UInt8

from semask.data.classes import Classes
from semask.data.published.camvid import CAMVID
from semask.data.published.official import (
    Files,
    Official,
    SplitFiles,
    by_folder,
    by_list,
    by_stem,
    read_list,
    renumber,
    select,
)
from semask.data.published.pascal_context import PASCAL_CONTEXT
from semask.data.readers.image import read_label
from semask.data.readers.mat_file import read_mat
from semask.data.readers.source import Source
from semask.recipes import coco_stuff
from semask.recipes.ade20k import ade20k_data
from semask.recipes.cityscapes import DATA as CITYSCAPES_DATA
from semask.recipes.voc import DATA as VOC_DATA
from semask.structures import IGNORE

# --- ADE20K, 150 classes; labels are 0 for other, and 1 … 150 ------------------------------------------------------
# Source: Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.

ADE20K = Official(
    title="ADE20K",
    downloads=("ADEChallengeData2016.zip",),
    data=ade20k_data(512, cat_max_ratio=0.75, jitter=True),
    counts={"training": 20210, "validation": 2000},
    gather=by_folder(
        r"images/(?P<split>training|validation)/(?P<stem>[^/]+)\.jpg",
        r"annotations/(?P<split>training|validation)/(?P<stem>[^/]+)\.png",
    ),
)

# --- Cityscapes, 19 classes; label files hold 34 "label ids", training and scoring use "train ids" -----------------
# Source: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.

TRAIN_IDS, LABEL_IDS = "_labelTrainIds.png", "_labelIds.png"
"""Endings of label files of train ids, and of label ids, the dataset's own."""
LABEL_IDS_FIX = (
    "there are files of label ids, as the dataset comes: `semask prepare cityscapes` makes those of train ids, or read "
    "them as they are by --data.label-suffix _gtFine_labelIds.png --data.classes cityscapes-labelids"
)


def read_label_ids(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the train ids of a file of label ids; unscored ones become 255."""
    return renumber(read_label(source).numpy(), Classes.load("cityscapes"), rest=IGNORE, largest=33)


CITYSCAPES = Official(
    title="Cityscapes",
    downloads=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    data=CITYSCAPES_DATA,
    counts={"train": 2975, "val": 500, "test": 1525},
    gather=by_folder(
        r"leftImg8bit/(?P<split>train|val|test)/(?P<stem>[^/]+/[^/]+)_leftImg8bit\.png",
        # the labels of the test are not public; the files called so are empty
        r"gtFine/(?P<split>train|val)/(?P<stem>[^/]+/[^/]+)_gtFine_labelIds\.png",
    ),
    read=read_label_ids,
    unlabelled=frozenset({"test"}),
)
# The coarse labels become the split train_extra beside the fine ones, so that `--data.train-split train_extra` trains
# on them while validation stays with the fine ones.
CITYSCAPES_COARSE = Official(
    title="Cityscapes, coarse labels",
    downloads=("leftImg8bit_trainextra.zip", "gtCoarse.zip"),
    data=dataclasses.replace(CITYSCAPES_DATA, train_split="train_extra"),
    counts={"train_extra": 19998},
    gather=by_folder(
        r"leftImg8bit/(?P<split>train_extra)/(?P<stem>[^/]+/[^/]+)_leftImg8bit\.png",
        r"gtCoarse/(?P<split>train_extra)/(?P<stem>[^/]+/[^/]+)_gtCoarse_labelIds\.png",
    ),
    read=read_label_ids,
)

# --- COCO-Stuff, 80 things and 91 kinds of stuff; official ids go to 182 and leave out 11 --------------------------
# The 10k images have .mat files, 0 for unlabelled; the 164k ones PNG files of the id less 1, 255 for unlabelled.
# Source: Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018.


def read_regions(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the labels of a .mat file, counted from 1 without gaps; 0 is unlabelled."""
    return renumber(read_mat(source, "S"), Classes.load("coco-stuff10k"), rest=0, largest=182)


COCO_STUFF_10K = Official(
    title="COCO-Stuff 10k",
    downloads=("cocostuff-10k-v1.1.zip",),
    data=coco_stuff.DATA_10K,
    counts={"train2014": 9000, "test2014": 1000},
    gather=by_list(
        r"images/(?P<stem>[^/]+)\.jpg",
        r"annotations/(?P<stem>[^/]+)\.mat",
        {"train2014": "imageLists/train.txt", "test2014": "imageLists/test.txt"},
    ),
    read=read_regions,
)
COCO_STUFF_164K = Official(
    title="COCO-Stuff 164k",
    downloads=("train2017.zip", "val2017.zip", "stuffthingmaps_trainval2017.zip"),
    data=coco_stuff.DATA_164K,
    counts={"train2017": 118287, "val2017": 5000},
    gather=by_folder(
        r"(?P<split>train2017|val2017)/(?P<stem>[^/]+)\.jpg",
        r"(?P<split>train2017|val2017)/(?P<stem>[^/]+)\.png",
    ),
)

# --- Pascal VOC 2012, 21 classes with the background, and the further labels of SBD --------------------------------
# Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2015; Hariharan et al., Semantic Contours
# from Inverse Detectors, ICCV 2011.

VOC_LISTS = "ImageSets/Segmentation"
VOC_IMAGES, VOC_LABELS = r"JPEGImages/(?P<stem>[^/]+)\.jpg", r"SegmentationClass/(?P<stem>[^/]+)\.png"
TRAIN_AUG = f"{VOC_LISTS}/trainaug"


def gather_augmented(files: Files) -> dict[str, SplitFiles]:
    """Find VOC's validation, and for training its own labels and SBD's of all images outside VOC's two splits."""
    images, own = by_stem(files, VOC_IMAGES), by_stem(files, VOC_LABELS)
    added = by_stem(files, r"dataset/cls/(?P<stem>[^/]+)\.mat")
    train, val = (read_list(files, f"{VOC_LISTS}/{split}.txt") for split in ("train", "val"))
    further = sorted(added.keys() - set(train) - set(val)) if train and val else []
    return {TRAIN_AUG: select(train + further, images, {**added, **own}), f"{VOC_LISTS}/val": select(val, images, own)}


def read_voc(source: Source) -> Integer[np.ndarray, "H W"]:
    """Return the values of a label of VOC (PNG) or of SBD (.mat)."""
    if PurePosixPath(source.name).suffix == ".mat":
        return read_mat(source, "GTcls", "Segmentation")
    values: np.ndarray = read_label(source).numpy()
    return values


VOC = Official(
    title="Pascal VOC 2012",
    downloads=("VOCtrainval_11-May-2012.tar",),
    data=VOC_DATA,
    counts={f"{VOC_LISTS}/train": 1464, f"{VOC_LISTS}/val": 1449},
    gather=by_list(
        VOC_IMAGES, VOC_LABELS, {split: f"{split}.txt" for split in (f"{VOC_LISTS}/train", f"{VOC_LISTS}/val")}
    ),
)
VOC_AUGMENTED = Official(
    title="Pascal VOC 2012 with SBD",
    downloads=("VOCtrainval_11-May-2012.tar", "benchmark.tgz"),
    data=dataclasses.replace(VOC_DATA, train_split=TRAIN_AUG),
    counts={TRAIN_AUG: 10582, f"{VOC_LISTS}/val": 1449},
    gather=gather_augmented,
    read=read_voc,
)

DATASETS: dict[str, Official] = {
    "ade20k": ADE20K,
    "cityscapes": CITYSCAPES,
    "cityscapes-coarse": CITYSCAPES_COARSE,
    "pascal-context": PASCAL_CONTEXT,
    "coco-stuff10k": COCO_STUFF_10K,
    "coco-stuff164k": COCO_STUFF_164K,
    "voc": VOC,
    "voc-aug": VOC_AUGMENTED,
    "camvid": CAMVID,
}
"""The datasets of `semask prepare`."""
